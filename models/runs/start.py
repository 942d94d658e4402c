"""How a run begins, anew or where it was left."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from bundle.vocabulary import Vocabulary
from models.data.corpus import NAMED, Corpus, open_corpus
from models.data.text_files import CorpusError
from models.network.char_lm import CharLM
from models.network.initialise import initialise
from models.runs.folder_lock import sole
from models.runs.metrics import BOARD, METRICS, Metrics
from models.runs.run import Run
from models.runs.warm_start import take_weights
from models.training.batches import Streams, upload_text
from models.training.checkpoint import BEST, LAST, CheckpointError, Progress, read, tensor_files
from models.training.distributed import ALONE, Group, require_shareable
from models.training.precision import Arithmetic, device_of
from models.training.settings import TrainSettings
from models.training.trainer import Trainer

__all__ = ["OF_A_RUN", "begin", "new_model", "new_trainer", "resume"]

# A folder with one of these files is a run's.
OF_A_RUN = (f"{LAST}.json", f"{BEST}.json", METRICS)
# Settings that --resume may be given other than they were: the text is known by its sha256.
_FREE = {"data", "out", "preset", "device", "tensorboard", "resume", "overwrite", "json_"}


def begin(settings: TrainSettings, began: float, group: Group = ALONE) -> Run:
    """A new run in an empty or new folder, or with --overwrite in the place of an old one.

    Raises:
        CannotCompute, CannotShare: there is no such device; several processes cannot do this.
        CheckpointError: there is a run in the folder, or another process trains into it; the run to begin from cannot
            be used.
        CorpusError: the text cannot be had, or is too short for the sizes.
    """
    corpus = _corpus(settings, group)
    trainer = new_trainer(settings, corpus, group)

    def begun() -> Run:
        group.from_first(lambda: _make_room(settings))
        metrics = Metrics(settings.out, board=settings.tensorboard and group.is_first)
        kept = settings.model_copy(update={"data": _from_anywhere(settings.data)})
        return Run(kept, corpus, Progress(), trainer, metrics, began)

    return _alone(settings.out, group, begun)


def resume(given: TrainSettings, began: float, group: Group = ALONE) -> Run:
    """The run in a folder, where its last checkpoint left it.

    Raises:
        CannotCompute, CannotShare: there is no such device; several processes cannot do this.
        CheckpointError: no run there, a damaged one, other settings than it was begun with, or another text; another
            process trains into the folder.
        CorpusError: the text cannot be had any more.
    """
    _require_last(given.out)
    return _alone(given.out, group, lambda: _resumed(given, began, group))


def _resumed(given: TrainSettings, began: float, group: Group) -> Run:
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
    trainer.guard.statistics = header.progress.guard
    metrics = Metrics(settings.out, board=settings.tensorboard and group.is_first, step=trainer.step)
    group.from_first(lambda: metrics.forget_after(trainer.step))
    progress = header.progress.model_copy(update={"resumed": True})
    if progress.device != trainer.device.type:
        progress = progress.model_copy(update={"threads": None})
    run = Run(settings, corpus, progress, trainer, metrics, began)
    if progress.threads is not None:
        run.set_arithmetic(Arithmetic(bool(progress.bf16), progress.threads, progress.tf32))
    return run


def new_model(settings: TrainSettings, vocabulary: Vocabulary) -> CharLM:
    """A model with its first weights, those of --init-from or by the seed; in float64 if that is the precision.

    Raises:
        CheckpointError: the run to begin from cannot be used.
    """
    torch.manual_seed(settings.seed)
    model = CharLM(settings.model_of(len(vocabulary)))
    initialise(model, settings.init, scale=settings.init_scale, forget_bias=settings.forget_bias)
    model = model.double() if settings.precision == "fp64" else model
    if settings.init_from and not settings.resume:
        take_weights(model, vocabulary, settings.init_from)
    return model


def new_trainer(settings: TrainSettings, corpus: Corpus, group: Group = ALONE) -> Trainer:
    """Before the first step. Raises what `begin` does, but for the folder."""
    group.from_first(lambda: require_shareable(settings, group))
    vocabulary, mine, device = (
        corpus.vocabulary,
        group.own_streams(settings.batch),
        torch.device(device_of(settings.device)),
    )
    text = upload_text(corpus.training, device)
    streams = Streams(corpus.training, len(vocabulary), settings, mine, text)
    return Trainer(new_model(settings, vocabulary).to(device), streams, settings, group)


def _corpus(settings: TrainSettings, group: Group) -> Corpus:
    """The first process prepares the text, all open it."""

    def opened() -> Corpus:
        return open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split)

    def prepared() -> None:
        if not settings.resume and _holds_run(settings.out):
            with sole(settings.out):  # says it where the run still goes on
                _require_free(settings)
        if not settings.data:
            raise CorpusError(f"--data is missing: {', '.join(NAMED)}, a text file, a folder of .txt files, or a URL")
        opened()

    group.from_first(prepared)
    return opened()


def _require_free(settings: TrainSettings) -> None:
    folder = settings.out
    if settings.overwrite or not _holds_run(folder):
        return
    ways = {
        LAST: "go on with it by --resume, or ",
        BEST: f"begin another with its weights by --init-from {folder}, or ",
    }
    way = next((way for name, way in ways.items() if (folder / f"{name}.json").exists()), "")
    raise CheckpointError(f"{folder} holds a run: {way}replace it by --overwrite")


def _require_last(folder: Path) -> None:
    if (folder / f"{LAST}.json").exists():
        return
    if (folder / f"{BEST}.json").exists():
        raise CheckpointError(
            f"{folder} holds weights, but no {LAST}.json to go on from: begin another run by --init-from {folder}"
        )
    raise CheckpointError(f"{folder}: no checkpoint there to go on from ({LAST}.json is missing)")


def _holds_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in OF_A_RUN)


def _alone(folder: Path, group: Group, make: Callable[[], Run]) -> Run:
    """What `make` gives; until its `held` is closed, no other process trains into the folder."""
    with ExitStack() as held:
        group.from_first(lambda: held.enter_context(sole(folder)))
        run = make()
        run.held = held.pop_all()
        return run


def _make_room(settings: TrainSettings) -> None:
    """Removes the run that --overwrite replaces, and no file that is not of a run."""
    _require_free(settings)
    folder = settings.out
    if not _holds_run(folder):
        return
    for file in (*tensor_files(folder, BEST), *tensor_files(folder, LAST)):
        file.unlink()
    for name in (*OF_A_RUN, "report.html"):
        (folder / name).unlink(missing_ok=True)
    for name in (BOARD, "check"):
        shutil.rmtree(folder / name, ignore_errors=True)


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
