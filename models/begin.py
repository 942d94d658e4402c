"""How a run begins, anew or where it was left."""

import shutil
from pathlib import Path

import torch

from bundle.vocabulary import Vocabulary
from models.arithmetic import device_of
from models.checkpoint import BEST, LAST, CheckpointError, Progress, read
from models.corpus import NAMED, Corpus, open_corpus
from models.distributed import ALONE, Group, require_shareable
from models.initialise import initialise
from models.metrics import BOARD, METRICS, Metrics
from models.model import CharLM
from models.run import Run
from models.settings import TrainSettings
from models.streams import Streams
from models.text import CorpusError
from models.trainer import Arithmetic, Trainer
from models.transfer import take_weights

__all__ = ["begin", "new_model", "new_trainer", "resume"]

# Settings that --resume may be given other than they were: the text is known by its sha256.
_FREE = {"data", "out", "preset", "device", "tensorboard", "resume", "overwrite", "json_"}


def begin(settings: TrainSettings, began: float, group: Group = ALONE) -> Run:
    """A new run in an empty or new folder, or with --overwrite in the place of an old one.

    Raises:
        CannotCompute, CannotShare: there is no such device; several processes cannot do this.
        CheckpointError: there is a run in the folder already; the run to begin from cannot be used.
        CorpusError: the text cannot be had, or is too short for the sizes.
    """
    corpus = _corpus(settings, group)
    trainer = new_trainer(settings, corpus, group)
    if settings.init_from:
        take_weights(trainer.model, corpus.vocabulary, settings.init_from)
    group.from_first(lambda: _clear(settings))
    metrics = Metrics(settings.out, board=settings.tensorboard and group.first)
    kept = settings.model_copy(update={"data": _from_anywhere(settings.data)})
    return Run(kept, corpus, Progress(), trainer, metrics, began)


def resume(given: TrainSettings, began: float, group: Group = ALONE) -> Run:
    """The run in a folder, where its last checkpoint left it.

    Raises:
        CannotCompute, CannotShare: there is no such device; several processes cannot do this.
        CheckpointError: no run there, a damaged one, other settings than it was begun with, or another text.
        CorpusError: the text cannot be had any more.
    """
    header, tensors = read(given.out / f"{LAST}.json")
    if header.settings is None:
        raise CheckpointError(f"{given.out} was not trained here: begin a run with --init-from {given.out} instead")
    settings = _settings_of(given, header.settings)
    corpus = _corpus(settings, group)
    _same_text(corpus, header.training.data_sha256)
    trainer = new_trainer(settings, corpus, group)
    try:
        trainer.restore(header.progress.step, tensors)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{given.out}: the tensors do not fit the model {header.model.model_dump()}") from error
    trainer.guard.verdict = header.progress.guard
    metrics = Metrics(settings.out, board=settings.tensorboard and group.first, step=trainer.step)
    group.from_first(lambda: metrics.forget_after(trainer.step))
    progress = header.progress.model_copy(update={"resumed": True})
    run = Run(settings, corpus, progress, trainer, metrics, began)
    if progress.threads is not None:
        run.set_arithmetic(Arithmetic(bool(progress.bf16), progress.threads))
    return run


def new_model(settings: TrainSettings, vocabulary: Vocabulary) -> CharLM:
    """A model with its first weights, which depend on the seed only; in float64 if that is the precision."""
    torch.manual_seed(settings.seed)
    model = CharLM(settings.model_of(len(vocabulary)))
    initialise(model, settings.init, scale=settings.init_scale, forget_bias=settings.forget_bias)
    return model.double() if settings.precision == "fp64" else model


def new_trainer(settings: TrainSettings, corpus: Corpus, group: Group = ALONE) -> Trainer:
    """Before the first step. Raises CannotCompute, CannotShare and CorpusError as `begin`."""
    group.from_first(lambda: require_shareable(settings, group))
    vocabulary, mine = corpus.vocabulary, group.part(settings.batch)
    streams = Streams(corpus.training, len(vocabulary), settings, mine)
    return Trainer(new_model(settings, vocabulary).to(device_of(settings.device)), streams, settings, group)


def _corpus(settings: TrainSettings, group: Group) -> Corpus:
    """The first process prepares the text, all open it."""

    def opened() -> Corpus:
        return open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split)

    def prepared() -> None:
        if not settings.resume:
            _require_free(settings)
        if not settings.data:
            raise CorpusError(f"--data is missing: {', '.join(NAMED)}, a text file, a folder of .txt files, or a URL")
        opened()

    group.from_first(prepared)
    return opened()


def _require_free(settings: TrainSettings) -> None:
    folder = settings.out
    if not settings.overwrite and (folder / f"{LAST}.json").exists():
        raise CheckpointError(f"{folder} holds a run: go on with it by --resume, or replace it by --overwrite")


def _clear(settings: TrainSettings) -> None:
    """Makes the folder, without what an older run left there."""
    settings.out.mkdir(parents=True, exist_ok=True)
    for name in (f"{BEST}.*", f"{LAST}.*", METRICS, "report.html"):
        for old in settings.out.glob(name):
            old.unlink()
    for name in (BOARD, "check"):
        shutil.rmtree(settings.out / name, ignore_errors=True)


def _settings_of(given: TrainSettings, kept: TrainSettings) -> TrainSettings:
    """Those that the run was begun with, and of those given what may be new. Raises CheckpointError."""
    for name in given.model_fields_set - _FREE:
        if getattr(given, name) != getattr(kept, name):
            raise CheckpointError(
                f"{given.out} was begun with {name.replace('_', '-')} {getattr(kept, name)}, "
                f"not {getattr(given, name)}: leave it out to go on, or begin another run"
            )
    free = {name: getattr(given, name) for name in _FREE & given.model_fields_set if getattr(given, name) != ""}
    return kept.model_copy(update={"resume": True, "preset": kept.preset, **free})


def _same_text(corpus: Corpus, sha256: str) -> None:
    if corpus.sha256 != sha256:
        raise CheckpointError(
            f"{corpus.path} is not the text of the run: its sha256 is {corpus.sha256[:12]}..., not {sha256[:12]}..."
        )


def _from_anywhere(data: str) -> str:
    return data if data in NAMED or "://" in data else str(Path(data).resolve())
