"""charstream verify: check that a bundle computes what its model does."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TextIO

import torch
from pydantic import Field

from bundle.manifest import Manifest
from bundle.pretrained import locate
from bundle.read import Bundle, read_bundle
from bundle.vocabulary import singular
from charstream.settings import Positional, Settings, fail, parse
from export.evaluate import tokens_of_part
from export.graph.modules import StepGraph
from export.quantization_cost import MAX_COST
from export.verification.compare import reference_of_bundle, verify
from export.verification.onnx_evaluator import open_evaluator
from export.verification.tolerance import Verification
from models.data.corpus import open_corpus
from models.evaluation.losses import carried_mean
from models.network.char_lm import CharLM
from models.terminal import ProgressBar, say
from models.training.checkpoint import load

__all__ = ["VerifySettings", "main", "use_one_thread", "verify_and_print"]

COMMAND = "charstream verify"


class VerifySettings(Settings):
    """Checks a bundle: files and digests, then ONNX Runtime against torch, step by step. Exit code 0: they agree."""

    bundle: Annotated[Path, Positional()] = Field(description="the bundle's folder, or pretrained")
    run: Path | None = Field(
        None, description="compare with the model of this training run (default: with the weights of step.onnx)"
    )
    data: str | None = Field(
        None,
        description="also measure every precision's loss on the last tenth of this text; each may cost 0.003 nats",
    )


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(VerifySettings, argv, command=COMMAND)
    use_one_thread()
    try:
        bundle = read_bundle(locate(settings.bundle))
        manifest = bundle.manifest
        model = _load_run(settings.run, bundle) if settings.run else reference_of_bundle(manifest, bundle.files)
        passed = verify_and_print(manifest, bundle.files, model)
        if settings.data:
            passed &= _compare_losses(bundle, settings.data)
    except ValueError as error:
        fail(COMMAND, str(error), code=1)
    return 0 if passed else 1


def verify_and_print(
    manifest: Manifest, files: dict[str, bytes], model: CharLM | StepGraph, file: TextIO | None = None
) -> bool:
    """Compare graphs with torch, print each result as it comes, by default to stdout; return whether all passed."""
    graphs = sum(name.endswith(".onnx") for name in files)
    with ProgressBar("verifying", " graphs", graphs) as bar:

        def show(result: Verification) -> None:
            say(str(result), file or sys.stdout)
            bar.advance(1)

        results = verify(manifest, files, model, show)
    failed = sum(not result.has_passed for result in results)
    if failed:
        print(f"not verified: {failed} of {len(results)} graphs do not compute what torch does", file=file)
    else:
        print(f"verified: all {len(results)} graphs compute what torch does, within tolerance", file=file)
    return not failed


def use_one_thread() -> None:
    """Give torch one thread: on a busy processor threads wait for each other far longer than a small step takes."""
    torch.set_num_threads(1)


def _load_run(run: Path, bundle: Bundle) -> CharLM:
    """Return the run's model. Raises ValueError if it cannot be the bundle's."""
    trained, manifest = load(run), bundle.manifest
    if (trained.model.config.shape, trained.vocabulary) != (manifest.model, manifest.vocabulary):
        raise ValueError(f"{run} holds another model: its sizes or its vocabulary are not those of {manifest.name}")
    return trained.model


def _compare_losses(bundle: Bundle, data: str) -> bool:
    """Print each precision's loss; return whether all agree. Raises ValueError if a character is unknown."""
    manifest = bundle.manifest
    corpus = open_corpus(data, vocabulary=manifest.unit)
    ids = tokens_of_part(corpus, "validation", manifest.vocabulary)
    start = int(manifest.vocabulary.symbols_to_tokens(manifest.start_text)[0])
    exact = carried_mean(open_evaluator(bundle, "fp32"), ids, start)
    losses = {
        precision: carried_mean(open_evaluator(bundle, precision), ids, start)
        for precision in manifest.precisions
        if precision != "fp32"
    }
    unit, agree = singular(manifest.unit), True
    for precision, nats in ({"fp32": exact} | losses).items():
        cost = nats - exact
        agree &= cost <= MAX_COST
        print(f"{precision}: {nats:.5f} nats a {unit} on the last tenth of {corpus.name} ({cost:+.5f})")
        if cost > MAX_COST:
            print(f"FAILED: {precision} costs more than {MAX_COST} nats", file=sys.stderr)
    return agree


if __name__ == "__main__":
    sys.exit(main())
