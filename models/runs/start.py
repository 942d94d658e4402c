"""The beginning of a run: a new one, or one that goes on from its last checkpoint."""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import torch

from bundle.vocabulary import Vocabulary
from models.data.corpus import NAMED, Corpus, open_corpus
from models.data.split import trains_on_more
from models.data.text_files import CorpusError
from models.evaluation.losses import evaluated_chars
from models.network.char_lm import CharLM
from models.network.initialise import initialise
from models.run_folder import BEST, CHECKS, FIRST, LAST, METRICS, PAGE, TENSORBOARD, header_file, holds_run
from models.runs.bundle_model import load_model
from models.runs.folder_lock import locked_folder
from models.runs.freed_memory import keep_freed_memory
from models.runs.metrics import Metrics
from models.runs.run import CHECK_CHARS, RESERVE, RESERVE_SECONDS, Run
from models.runs.teachers import Taught, teach
from models.runs.warm_start import adopt_model, take_weights
from models.terminal import say
from models.training.autotune import first_step_seconds
from models.training.batches import Streams, upload_text
from models.training.checkpoint import CheckpointError, Progress, read, tensor_files
from models.training.distributed import ALONE, Group, require_shareable
from models.training.precision import Arithmetic, device_of
from models.training.schedule import require_time
from models.training.settings import TrainSettings, given_names
from models.training.trainer import Trainer

__all__ = ["begin", "discard_begun_run", "how_to_go_on", "new_model", "new_trainer", "resume"]

_FORWARD = 1 / 3  # of a step's time: its forward pass, which is all that validation is
_SHORT_STEP = 0.002  # share of the time that a step may take without a second look
# Settings that --resume may change: the text is known by its sha256.
_CHANGEABLE = {
    *("data", "out", "preset", "device", "threads", "profile", "tensorboard", "resume", "overwrite", "json_"),
}


def begin(settings: TrainSettings, began: float, group: Group = ALONE) -> Run:
    """Begin a new run, in a folder without one, or with --overwrite in the place of an old run.

    Raises:
        CannotCompute, CannotShare: there is no such device; several processes cannot train with these settings.
        CheckpointError: the folder holds a run, or another process trains into it; the run to begin from cannot be
            used.
        CorpusError: the text cannot be read, or is too short for the sizes.
        TooShort: the time does not suffice. The folder is as it was.
    """
    settings = adopt_model(settings)
    corpus = _open_corpus(settings, group)
    if settings.distill_from:
        _require_trainable(settings, corpus, group, began)
    taught = teach(settings, corpus, group)
    group.from_first(lambda: _warn_of_known_text(settings, corpus))
    trainer = new_trainer(settings, corpus, group, taught)

    group.from_first(lambda: _require_time(settings, corpus, trainer, began))
    if corpus.shortage and group.is_first and not settings.init_from:
        say(corpus.shortage)

    def make() -> Run:
        group.from_first(lambda: _remove_old_run(settings))
        metrics = Metrics(settings.out, board=settings.tensorboard and group.is_first)
        # A resumed run finds the text from any working directory.
        is_path = settings.data not in NAMED and "://" not in settings.data
        kept = settings.model_copy(update={"data": str(corpus.path.resolve())}) if is_path else settings
        return Run(kept, corpus, Progress(distillation=taught.record if taught else None), trainer, metrics, began)

    return _lock(settings.out, group, make)


def resume(given: TrainSettings, began: float, group: Group = ALONE) -> Run:
    """Go on with the run in a folder from its last checkpoint.

    Raises:
        CannotCompute, CannotShare: as in `begin`.
        CheckpointError: no run is there, or a damaged one, or one of other settings or another text; another process
            trains into the folder.
        CorpusError: the text cannot be read any more.
    """
    _require_last(given.out)
    return _lock(given.out, group, lambda: _restore(given, began, group))


def how_to_go_on(folder: Path) -> dict[str, bool]:
    """Return the settings with which the same command goes on, whatever a process that died has left in the folder."""
    if header_file(folder, LAST).exists():
        return {"resume": True}
    # What there is without a checkpoint was begun, and not saved.
    return {"overwrite": holds_run(folder) and not header_file(folder, BEST).exists()}


def _restore(given: TrainSettings, began: float, group: Group) -> Run:
    header, tensors = read(header_file(given.out, LAST))
    if header.settings is None:
        raise CheckpointError(f"{given.out} was not trained here: begin a run with --init-from {given.out} instead")
    settings = _resumed_settings(given, header.settings)
    corpus = _open_corpus(settings, group)
    _require_same_text(corpus, header.training.data_sha256)
    trainer = new_trainer(settings, corpus, group, teach(settings, corpus, group, header.progress.distillation))
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
        threads = settings.threads or progress.threads
        run.set_arithmetic(Arithmetic(bool(progress.bf16), threads, progress.tf32))
    return run


def new_model(settings: TrainSettings, vocabulary: Vocabulary) -> CharLM:
    """Return a model with its first weights, those of --init-from or by the seed; in float64 if that is the precision.

    Raises:
        CheckpointError: the run of --init-from cannot be used.
    """
    torch.manual_seed(settings.seed)
    model = CharLM(settings.model_of(len(vocabulary)))
    initialise(model, settings.init, scale=settings.init_scale, forget_bias=settings.forget_bias)
    model = model.double() if settings.precision == "fp64" else model
    if settings.init_from and not settings.resume:
        take_weights(model, vocabulary, settings.init_from)
    return model


def new_trainer(settings: TrainSettings, corpus: Corpus, group: Group = ALONE, taught: Taught | None = None) -> Trainer:
    """Return a trainer before its first step. Raises as `begin`, apart from the folder."""
    keep_freed_memory()
    group.from_first(lambda: require_shareable(settings, group))
    own, device = group.own_streams(settings.batch), torch.device(device_of(settings.device))
    text = upload_text(corpus.training, device)
    streams = Streams(corpus.training, len(corpus.vocabulary), settings, own, text, taught.rows if taught else None)
    return Trainer(new_model(settings, corpus.vocabulary).to(device), streams, settings, group)


def _open_corpus(settings: TrainSettings, group: Group) -> Corpus:
    """Open the text in all processes, after the first one has prepared it."""

    def open_text() -> Corpus:
        return open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split, form=settings.text_form)

    if group.size > 1 and (settings.data == "-" or Path(settings.data).is_fifo()):
        raise CorpusError(f"{settings.data}: several processes cannot read one pipe: write the text into a file first")

    def prepare() -> None:
        if not settings.resume and holds_run(settings.out):
            with locked_folder(settings.out):  # first of all: the run there may still go on
                _require_free(settings)
        if not settings.data:
            raise CorpusError(f"--data is missing: {', '.join(NAMED)}, a text file, a folder of .txt files, or a URL")
        open_text()

    group.from_first(prepare)
    return open_text()


def _require_time(settings: TrainSettings, corpus: Corpus, trainer: Trainer, began: float) -> None:
    """Refuse a run whose minutes do not suffice, before it begins. Raises TooShort."""
    minutes = settings.minutes_limit
    if minutes is None:
        return
    held_out = len(corpus.validation)
    read = (evaluated_chars(held_out) + 2 * evaluated_chars(held_out, CHECK_CHARS)) if held_out else 0
    require_time(
        minutes,
        step_seconds=first_step_seconds(trainer, minutes * 60 * _SHORT_STEP),
        validation_steps=RESERVE * _FORWARD * read / (settings.batch * settings.sequence),
        spent=time.monotonic() - began + RESERVE_SECONDS,
    )


def discard_begun_run(folder: Path) -> None:
    """Remove what a run that this process began has left in a folder that held none; what was there before stays."""
    for name in (FIRST, BEST, LAST):
        for file in (*tensor_files(folder, name), header_file(folder, name)):
            file.unlink(missing_ok=True)
    (folder / METRICS).unlink(missing_ok=True)
    board = folder / TENSORBOARD
    for file in board.glob(f"events.out.tfevents.*.{os.getpid()}.*"):
        file.unlink()
    with suppress(OSError):  # there is none, or it has other files
        board.rmdir()


def _discard_run(folder: Path) -> None:
    """Remove a run's files from a folder, and no others."""
    discard_begun_run(folder)
    (folder / PAGE).unlink(missing_ok=True)
    for name in (TENSORBOARD, CHECKS):
        shutil.rmtree(folder / name, ignore_errors=True)


def _require_free(settings: TrainSettings) -> None:
    folder = settings.out
    if settings.overwrite or not holds_run(folder):
        return
    ways = {
        LAST: "go on with it by --resume, or ",
        BEST: f"begin another with its weights by --init-from {folder}, or ",
    }
    way = next((way for name, way in ways.items() if header_file(folder, name).exists()), "")
    raise CheckpointError(f"{folder} holds a run: {way}replace it by --overwrite")


def _warn_of_known_text(settings: TrainSettings, corpus: Corpus) -> None:
    """Say which models to learn from were trained on a part of the text that is held out here."""
    sources = [("--init-from", settings.init_from), *(("--distill-from", path) for path in settings.distill_from)]
    for flag, path in sources:
        record = load_model(path).record if path else None
        if record and record.data_sha256 == corpus.sha256 and trains_on_more(record.split, corpus.split):
            say(
                f"{flag} {path} was trained with --split {record.split}: it knows some of the text that is held out "
                f"with --split {corpus.split}, so the validation loss flatters"
            )


def _require_trainable(settings: TrainSettings, corpus: Corpus, group: Group, began: float) -> None:
    """Refuse what cannot be trained, before its teachers read for minutes. Raises as `begin`."""
    trainer = new_trainer(settings, corpus, group)
    group.from_first(lambda: _require_other_teachers(settings))
    group.from_first(lambda: _require_time(settings, corpus, trainer, began))


def _require_other_teachers(settings: TrainSettings) -> None:
    """Raise CheckpointError where --overwrite would delete a teacher."""
    for path in settings.distill_from:
        folder = path.parent if path.is_file() else path
        if folder.resolve() == settings.out.resolve():
            raise CheckpointError(f"--distill-from {path}: {settings.out} would replace it: name another --out")


def _require_last(folder: Path) -> None:
    if header_file(folder, LAST).exists():
        return
    if header_file(folder, BEST).exists():
        raise CheckpointError(
            f"{folder} holds weights, but no {LAST}.json to go on from: begin another run by --init-from {folder}"
        )
    raise CheckpointError(f"{folder}: no checkpoint there to go on from ({LAST}.json is missing)")


def _lock(folder: Path, group: Group, make: Callable[[], Run]) -> Run:
    """Make a run that keeps other processes out of the folder until its `lock` is closed."""
    with ExitStack() as lock:
        group.from_first(lambda: lock.enter_context(locked_folder(folder)))
        run = make()
        run.lock = lock.pop_all()
        return run


def _remove_old_run(settings: TrainSettings) -> None:
    """Remove the run that --overwrite replaces, and no files but a run's."""
    _require_free(settings)
    folder = settings.out
    if holds_run(folder):
        _discard_run(folder)


def _resumed_settings(given: TrainSettings, kept: TrainSettings) -> TrainSettings:
    """Return the settings that the run was begun with, with the changes that are allowed. Raises CheckpointError."""
    for name in given_names(given, kept) - _CHANGEABLE:
        if getattr(given, name) != getattr(kept, name):
            raise CheckpointError(
                f"{given.out} was begun with {name.replace('_', '-')} {_format_value(getattr(kept, name))}, "
                f"not {_format_value(getattr(given, name))}: leave it out to go on, or begin another run"
            )
    changes = {
        name: getattr(given, name) for name in _CHANGEABLE & given.model_fields_set if getattr(given, name) != ""
    }
    return kept.model_copy(update={"resume": True, "preset": kept.preset, **changes})


def _format_value(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


def _require_same_text(corpus: Corpus, sha256: str) -> None:
    if corpus.sha256 != sha256:
        raise CheckpointError(
            f"{corpus.path} is not the text of the run: its sha256 is {corpus.sha256[:12]}..., not {sha256[:12]}..."
        )
