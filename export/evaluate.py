"""charstream evaluate: the loss of a training run or a bundle on a text."""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bundle.manifest import Manifest, TrainingRecord
from bundle.pretrained import locate
from bundle.read import MANIFEST, read_bundle
from bundle.vocabulary import UnknownCharacter, Vocabulary
from charstream.settings import Positional, Settings, fail, parse
from export.verification.onnx_evaluator import open_evaluator
from models.data.corpus import NAMED, Corpus, open_corpus, require_same_text
from models.data.split import DEFAULT_SPLIT, trains_on_more
from models.data.text_files import PLAIN, CorpusError, TextForm
from models.evaluation.dynamic import RATE, DynamicEvaluator
from models.evaluation.evaluation import EvaluatedModel, Evaluation, evaluate
from models.evaluation.losses import AverageEvaluator, TorchEvaluator
from models.runs.bundle_model import load_model
from models.terminal import say
from models.training.checkpoint import CheckpointError, load, read

__all__ = ["EvaluateSettings", "join_models", "main", "tokens_of_part"]

COMMAND = "charstream evaluate"
TEXTS = f"{', '.join(NAMED)}, a text file, a folder of .txt files, or a URL"
_OF_THE_RUN = ("split", "data", "glob", "encoding")  # what is not given


class EvaluateSettings(Settings):
    """Tells what a model loses on a text: nats and bits per character, perplexity, and how sure that is.

    carried: one reader of the whole part. windows: cold windows side by side, nanoGPT's protocol. Several models are
    evaluated as one, which gives each character the mean of their probabilities.
    """

    model: Annotated[tuple[Path, ...], Positional()] = Field(
        description="a run's folder, one of its checkpoints, a bundle, or pretrained, which comes with charstream"
    )
    data: str = Field(
        "", description=f"{TEXTS} (default: the text of the run, or of the bundle's run, if it is still there)"
    )
    protocol: Literal["carried", "windows"] = Field("carried", description="how the text is read")
    window: int = Field(256, ge=1, description="characters of a window of --protocol windows")
    dynamic: bool = Field(
        False, description="read as carried, and learn from what was read: the loss of a model that adapts to the text"
    )
    dynamic_rate: float = Field(RATE, gt=0, description="how fast it adapts")
    split: str = Field(
        "", description=f"shares of training, validation and test (default: the run's own, or {DEFAULT_SPLIT})"
    )
    part: Literal["training", "validation", "test", "all"] = Field("validation", description="of the text")
    precision: Literal["fp32", "int8"] = Field(
        "fp32", description="of a bundle's matmuls; those for CUDA are measured by verify --data"
    )
    glob: str = Field("", description="names of the files that a folder's text is in (default: as the run, or *.txt)")
    encoding: str = Field("", description="of the text's files (default: as the run, or utf-8)")
    json_: bool = Field(False, description="print the result as JSON")

    @model_validator(mode="after")
    def _dynamic_is_carried(self) -> Self:
        if self.dynamic and (self.protocol, self.precision) != ("carried", "fp32"):
            raise ValueError("--dynamic reads as --protocol carried, in fp32: leave out --protocol and --precision")
        if self.dynamic_rate != RATE and not self.dynamic:
            raise ValueError("--dynamic-rate is how fast --dynamic adapts: give that as well")
        return self


class _Opened(NamedTuple):
    """A model to evaluate, the settings with its own text and split where none were given, and its record."""

    model: EvaluatedModel
    settings: EvaluateSettings
    record: TrainingRecord


def _open_model(path: Path, settings: EvaluateSettings) -> _Opened:
    """Open a run, a checkpoint or a bundle.

    Raises:
        ValueError: there is no model, or it lacks the precision; CorpusError: its text is not known here.
    """
    path = locate(path)
    if (path / MANIFEST).exists():
        return _open_bundle(path, settings)
    if settings.precision != "fp32":
        raise ValueError(f"{path} is a training run, which has fp32 only: export it, evaluate the bundle")
    trained = load(path)
    run = read(path)[0].settings
    model = EvaluatedModel(f"run {path}", TorchEvaluator(trained.model), trained.vocabulary, trained.start_text)
    own = {name: getattr(run, name) for name in _OF_THE_RUN} if run else {"split": DEFAULT_SPLIT}
    given = {name: value for name in _OF_THE_RUN if (value := getattr(settings, name))}
    return _Opened(model, settings.model_copy(update=own | given), trained.record)


def _open_bundle(path: Path, settings: EvaluateSettings) -> _Opened:
    bundle = read_bundle(path)
    manifest, record = bundle.manifest, bundle.manifest.training
    if settings.precision not in ("fp32", *manifest.precisions):
        raise ValueError(f"{path} has no {settings.precision}, only {', '.join(manifest.precisions)}")
    evaluator = open_evaluator(bundle, settings.precision)
    name = f"bundle {path} in {settings.precision}"
    model = EvaluatedModel(name, evaluator, manifest.vocabulary, manifest.start_text)
    settings = settings.model_copy(update={"split": settings.split or record.split or DEFAULT_SPLIT})
    return _Opened(model, settings if settings.data else _with_text(path, settings, manifest), record)


def _with_text(path: Path, settings: EvaluateSettings, manifest: Manifest) -> EvaluateSettings:
    """Return settings that name the text on which a bundle was trained, by name, address or a path where it still lies.

    Paths are tried as the manifest has it, and as the run of the same name (runs/NAME beside bundles/NAME) has it; glob
    and encoding, where they are not given, are that run's.

    Raises:
        CorpusError: it is nowhere there.
    """
    record, bundle = manifest.training, path.resolve()
    run = _text_of_run(bundle.parent.parent / "runs" / bundle.name)
    glob, encoding = settings.glob or run.glob, settings.encoding or run.encoding
    if record.data in NAMED or "://" in record.data:
        return settings.model_copy(update={"data": record.data, "glob": glob, "encoding": encoding})
    for text in (record.data, run.data):
        if text and Path(text).exists():
            with suppress(CorpusError):  # another text may lie there
                corpus = open_corpus(text, vocabulary=manifest.unit, form=TextForm(glob, encoding))
                if corpus.sha256 == record.data_sha256:
                    return settings.model_copy(update={"data": text, "glob": glob, "encoding": encoding})
    raise CorpusError(
        f"{path} was trained on {record.data!r} (sha256 {record.data_sha256[:12]}...), and that text was not "
        f"found: --data says where one is: {TEXTS}"
    )


class _TextOfRun(NamedTuple):
    data: str = ""
    glob: str = PLAIN.glob
    encoding: str = PLAIN.encoding


def _text_of_run(folder: Path) -> _TextOfRun:
    """Return the text that a run names; nothing if there is no run, or one that was imported."""
    try:
        run = read(folder)[0].settings
    except CheckpointError:
        return _TextOfRun()
    return _TextOfRun(run.data, run.glob, run.encoding) if run else _TextOfRun()


def tokens_of_part(corpus: Corpus, part: str, vocabulary: Vocabulary) -> NDArray[np.integer]:
    """Return a part of a text as a model's tokens, [N]: the corpus's own array if both vocabularies are equal.

    Raises:
        CorpusError: the part is empty, or has a character that the model does not know.
    """
    ids = corpus.ids if part == "all" else getattr(corpus, part)
    if not len(ids):
        raise CorpusError(f"{corpus.path} has no {part} part with --split {corpus.split}; --part all takes all of it")
    if corpus.vocabulary == vocabulary:
        return ids
    known = {symbol: token for token, symbol in enumerate(vocabulary.symbols)}
    translation = np.array([known.get(symbol, -1) for symbol in corpus.vocabulary.symbols], np.int32)
    tokens = translation[ids]
    unknown = np.flatnonzero(tokens < 0)
    if unknown.size:
        place = int(unknown[0])
        symbol = corpus.vocabulary.symbols[ids[place]]
        raise CorpusError(f"the {part} part of {corpus.path}: {UnknownCharacter(symbol, place)}")
    return tokens


def _evaluate(given: EvaluateSettings) -> Evaluation:
    opened = [_open_model(path, given) for path in given.model]
    model, settings, record = opened[0]
    if not settings.data:
        raise CorpusError(f"--data is missing: {TEXTS}")
    form = TextForm(settings.glob or PLAIN.glob, settings.encoding or PLAIN.encoding)
    corpus = open_corpus(settings.data, vocabulary=model.vocabulary.unit, split=settings.split, form=form)
    if not given.data:
        require_same_text(corpus, record.data_sha256)
    for other in opened[1:]:
        same_text = other.record.data_sha256 == corpus.sha256 and settings.part != "training"
        if same_text and trains_on_more(other.record.split, corpus.split):
            say(
                f"{other.model.name} was trained with --split {other.record.split}: it knows some of the text that is "
                f"held out with --split {corpus.split}"
            )
    ids = tokens_of_part(corpus, settings.part, model.vocabulary)
    models = [one.model for one in opened]
    if given.dynamic:
        training = tokens_of_part(corpus, "training", model.vocabulary)
        models = [
            _as_learner(path, one, training, given.dynamic_rate) for path, one in zip(given.model, models, strict=True)
        ]
    protocol = "dynamic" if given.dynamic else settings.protocol
    return evaluate(join_models(models), ids, f"{settings.part} part of {corpus.name}", protocol, settings.window)


def _as_learner(path: Path, model: EvaluatedModel, training: NDArray[np.integer], rate: float) -> EvaluatedModel:
    """Return the model as one that learns from what it reads."""
    return replace(model, evaluator=DynamicEvaluator(load_model(path).model, training, rate))


def join_models(models: Sequence[EvaluatedModel]) -> EvaluatedModel:
    """Return several models as one. Raises ValueError unless they know the same characters, and texts begin alike."""
    first, *others = models
    for other in others:
        if (other.vocabulary, other.start_text) != (first.vocabulary, first.start_text):
            raise ValueError(f"{other.name} has another vocabulary than {first.name}: no mean of their probabilities")
    if not others:
        return first
    names = "; ".join(model.name for model in models)
    evaluator = AverageEvaluator([model.evaluator for model in models])
    return replace(first, name=f"mean of the probabilities of {len(models)} models: {names}", evaluator=evaluator)


def main(argv: Sequence[str] | None = None) -> int:
    """Return exit code 0, or exit with 1 if the model cannot be opened, 2 for wrong usage or an unreadable text."""
    settings = parse(EvaluateSettings, argv, command=COMMAND)
    try:
        evaluation = _evaluate(settings)
    except CorpusError as error:
        fail(COMMAND, str(error))
    except ValueError as error:
        fail(COMMAND, str(error), code=1)
    print(json.dumps(evaluation.facts()) if settings.json_ else evaluation)
    return 0


if __name__ == "__main__":
    sys.exit(main())
