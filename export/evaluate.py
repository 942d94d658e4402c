"""`charstream evaluate`: what a training run or a bundle loses on a text."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bundle.read import MANIFEST, full_file, read_bundle
from bundle.vocabulary import UnknownCharacter, Vocabulary
from charstream.settings import Positional, Settings, fail, parse
from export.verification.onnx_reader import RuntimeReader
from export.verification.onnx_session import Runtime
from models.data.corpus import NAMED, Corpus, open_corpus, require_same_text
from models.data.split import DEFAULT_SPLIT
from models.data.text_files import CorpusError
from models.evaluation.evaluation import EvaluatedModel, Evaluation, evaluate
from models.evaluation.losses import TorchEvaluator
from models.training.checkpoint import load, read

__all__ = ["EvaluateSettings", "main", "numbers_of", "open_model"]

COMMAND = "charstream evaluate"


class EvaluateSettings(Settings):
    """Tells what a model loses on a text: nats and bits per character, perplexity, and how sure that is.

    carried: one reader of the whole part. windows: cold windows side by side, nanoGPT's protocol.
    """

    model: Annotated[Path, Positional()] = Field(description="a run's folder, one of its checkpoints, or a bundle")
    data: str = Field(
        "", description=f"{', '.join(NAMED)}, a text file, a folder of .txt files, or a URL (default: the run's text)"
    )
    protocol: Literal["carried", "windows"] = Field("carried", description="how the text is read")
    window: int = Field(256, ge=1, description="characters of a window of --protocol windows")
    split: str = Field(
        "", description=f"shares of training, validation and test (default: the run's own, or {DEFAULT_SPLIT})"
    )
    part: Literal["training", "validation", "test", "all"] = Field("validation", description="of the text")
    precision: Literal["fp32", "int8"] = Field(
        "fp32", description="of a bundle's matmuls; those for CUDA are measured by verify --data"
    )
    json_: bool = Field(False, description="print the result as JSON")


def open_model(settings: EvaluateSettings) -> tuple[EvaluatedModel, EvaluateSettings]:
    """What is to be evaluated, and the settings with the run's own text and split where none were given.

    Raises:
        ValueError: there is no model, or none of that precision.
    """
    if (settings.model / MANIFEST).exists():
        bundle = read_bundle(settings.model)
        manifest = bundle.manifest
        if settings.precision not in manifest.precisions:
            raise ValueError(f"{settings.model} has no {settings.precision}, only {', '.join(manifest.precisions)}")
        reader = RuntimeReader(Runtime(bundle.files[full_file(settings.precision)]), manifest)
        named = f"bundle {settings.model} in {settings.precision}"
        found = EvaluatedModel(named, reader, manifest.vocabulary, manifest.start_text)
        return found, settings.model_copy(update={"split": settings.split or manifest.training.split or DEFAULT_SPLIT})
    if settings.precision != "fp32":
        raise ValueError(f"{settings.model} is a training run, which has fp32 only: export it, evaluate the bundle")
    trained = load(settings.model)
    run = read(settings.model)[0].settings
    found = EvaluatedModel(
        f"run {settings.model}", TorchEvaluator(trained.model), trained.vocabulary, trained.start_text
    )
    own = {"split": run.split, "data": run.data} if run else {"split": DEFAULT_SPLIT}
    given = {name: value for name in ("split", "data") if (value := getattr(settings, name))}
    return found, settings.model_copy(update=own | given)


def numbers_of(corpus: Corpus, part: str, vocabulary: Vocabulary) -> NDArray[np.integer]:
    """A part of a text in a model's numbers, [N]; the corpus's own array where both have the same ones.

    Raises:
        CorpusError: the part is empty, or has a character that the model does not know.
    """
    ids = corpus.ids if part == "all" else getattr(corpus, part)
    if not len(ids):
        raise CorpusError(f"{corpus.path} has no {part} part with --split {corpus.split}; --part all takes all of it")
    if corpus.vocabulary == vocabulary:
        return ids
    known = {symbol: number for number, symbol in enumerate(vocabulary.symbols)}
    number_of = np.array([known.get(symbol, -1) for symbol in corpus.vocabulary.symbols], np.int32)
    numbers = number_of[ids]
    strange = np.flatnonzero(numbers < 0)
    if strange.size:
        place = int(strange[0])
        symbol = corpus.vocabulary.symbols[ids[place]]
        raise CorpusError(f"the {part} part of {corpus.path}: {UnknownCharacter(symbol, place)}")
    return numbers


def _evaluated(given: EvaluateSettings) -> Evaluation:
    model, settings = open_model(given)
    if not settings.data:
        raise CorpusError(f"--data is missing: {', '.join(NAMED)}, a text file, a folder of .txt files, or a URL")
    corpus = open_corpus(settings.data, vocabulary=model.vocabulary.unit, split=settings.split)
    if not given.data:
        require_same_text(corpus, read(settings.model)[0].training.data_sha256)
    ids = numbers_of(corpus, settings.part, model.vocabulary)
    return evaluate(model, ids, f"{settings.part} part of {corpus.name}", settings.protocol, settings.window)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: evaluated; 1: the model cannot be had; 2: wrong usage, or a text that it cannot read."""
    settings = parse(EvaluateSettings, argv, command=COMMAND)
    try:
        found = _evaluated(settings)
    except CorpusError as error:
        fail(COMMAND, str(error))
    except ValueError as error:
        fail(COMMAND, str(error), code=1)
    print(json.dumps(found.facts()) if settings.json_ else found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
