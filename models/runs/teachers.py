"""Teachers: trained models whose probabilities of a training text another one learns from (distillation).

The student's loss is cross-entropy against the text and against the mean of its teachers' probabilities (Hinton,
Vinyals and Dean, 2015; teachers of the student's own size: Furlanello et al., 2018). The teachers read the training
part once, before the first step, and carry their states, as `charstream evaluate` reads. Their probabilities lie in a
file of the cache, named by them and the text, with its sha256 beside it: other students of the same teachers find it,
and a run that goes on. A file that is damaged is made anew; of several processes one makes it, and the others wait.
"""

import fcntl
import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bundle.vocabulary import Vocabulary
from models.data.cache import cache_folder, make_place, open_to_replace
from models.data.corpus import Corpus, open_corpus
from models.data.text_files import CorpusError
from models.evaluation.losses import LOGITS, States, read_once
from models.network.char_lm import CharLM
from models.runs.bundle_model import load_model
from models.terminal import ProgressBar, count_noun, say
from models.training.batches import upload
from models.training.checkpoint import CheckpointError, Distillation
from models.training.distributed import ALONE, Group
from models.training.precision import Arithmetic, device_of
from models.training.schedule import TooShort
from models.training.settings import TrainSettings

__all__ = ["Taught", "read_ahead", "teach"]

MOST_BYTES = 8 << 30  # of the probabilities of a text
_KIND = np.dtype(np.float16)
_FOLDER = "teachers"
FIRST_LOOK = 5.0  # seconds of reading, from which on one knows how long all of it takes
_TINY = np.finfo(np.float32).tiny  # a probability that was rounded to zero has a loss, too


@dataclass(frozen=True)
class Taught:
    """The teachers' mean probabilities of a training text.

    Attributes:
        rows: [N, V] float16, mapped from a file or on a GPU: row p is of symbol p, after all symbols before it.
        record: by which a resumed run knows them again.
    """

    rows: Tensor
    record: Distillation


def teach(
    settings: TrainSettings, corpus: Corpus, group: Group = ALONE, before: Distillation | None = None
) -> Taught | None:
    """Return what the teachers of --distill-from give the training part; None without teachers.

    Args:
        before: of the run that goes on: where the file of its teachers still lies in the cache, they are not needed.

    Raises:
        CheckpointError: there is no such model, it cannot teach this text, or the run began with another.
        CorpusError: the text is too large, or the cache cannot be written.
        TooShort: they would read for longer than the run may take.
    """
    if not settings.distill_from:
        return None
    record = group.from_first(lambda: _read_text(settings, corpus, before))
    if before not in (None, record) and group.is_first:
        say("the teachers' probabilities come out differently here, by roundings: the run goes on, but not bit by bit")
    if not group.is_first:  # the first process's file, or on another machine one of its own
        _read_text(settings, corpus, record)
    mapped = np.memmap(_file(corpus, record.teachers), _KIND, "c", shape=_shape(corpus))
    rows = upload(mapped, torch.device(device_of(settings.device)), _KIND)
    return Taught(torch.from_numpy(np.asarray(mapped)) if rows is None else rows, record)


def read_ahead(settings: TrainSettings) -> None:
    """Let the teachers read the text before a run whose time is compared with that of others. Raises as `teach`."""
    if settings.distill_from:
        form = settings.text_form
        corpus = open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split, form=form)
        _read_text(settings.model_copy(update={"minutes": None, "steps": 1}), corpus)


def _read_text(settings: TrainSettings, corpus: Corpus, before: Distillation | None = None) -> Distillation:
    """Let the teachers read the text, unless what they made of it is there; return by what both are known.

    Args:
        before: by what they were known when the run began: they must be those.
    """
    known = before.teachers if before else ()
    if before and (digest := _intact_digest(_file(corpus, known), corpus, before.probabilities)):
        return Distillation(teachers=known, probabilities=digest)
    teachers = [_open_teacher(path, corpus.vocabulary) for path in settings.distill_from]
    for path, teacher, expected in zip(settings.distill_from, teachers, known, strict=bool(known)):
        if teacher.sha256 != expected:
            raise CheckpointError(
                f"--distill-from {path}: is another model than when the run began (sha256 {teacher.sha256[:12]}..., "
                f"was {expected[:12]}...): put that one back, or begin another run"
            )
    known = tuple(teacher.sha256 for teacher in teachers)
    file = _file(corpus, known)
    with _writer_lock(file):
        digest = _intact_digest(file, corpus)
        if digest is None:
            if file.exists():
                say(f"{file} is not what was written: the teachers read the text again")
            _require_room(file, corpus)
            _write(file, _Teachers(teachers, torch.device(device_of(settings.device))), corpus, settings)
            digest = _digest_of_file(file)
            with open_to_replace(_checksum_file(file)) as stream:
                stream.write(digest.encode())
    return Distillation(teachers=known, probabilities=digest)


@contextmanager
def _writer_lock(file: Path) -> Iterator[None]:
    """Keep other processes that want to make a file waiting, and remove what one that was killed has left of it.

    Raises:
        CorpusError: the folder cannot be written.
    """
    with make_place(file):
        lock = file.with_suffix(".lock").open("ab")
    with lock:
        left_over = [*file.parent.glob(f".{file.name}.*.new")]
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process lets these teachers read this text: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            left_over = []  # a file system without locks: they may be somebody's
        for new in left_over:
            new.unlink(missing_ok=True)
        yield


def _intact_digest(file: Path, corpus: Corpus, known: str = "") -> str | None:
    """Return a file's sha256; None where it is not there, or neither as it was written nor as it is `known`."""
    try:
        if file.stat().st_size != math.prod(_shape(corpus)) * _KIND.itemsize:
            return None
        digest = _digest_of_file(file)
        return digest if digest == known or digest == _checksum_file(file).read_text("ascii") else None
    except (OSError, ValueError):
        return None


def _digest_of_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checksum_file(file: Path) -> Path:
    """Return the path of the file beside it that has its sha256."""
    return file.with_suffix(".sha256")


def _shape(corpus: Corpus) -> tuple[int, int]:
    return len(corpus.training), len(corpus.vocabulary)


def _file(corpus: Corpus, teachers: tuple[str, ...]) -> Path:
    key = json.dumps([corpus.sha256, corpus.vocabulary.unit, len(corpus.training), teachers])
    return cache_folder() / _FOLDER / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.{_KIND}"


def _require_room(file: Path, corpus: Corpus) -> None:
    """Raise CorpusError where the probabilities of a text would take too much of the disk."""
    characters, symbols = _shape(corpus)
    size = characters * symbols * _KIND.itemsize
    what = (
        f"--distill-from keeps {_KIND.itemsize} bytes for each of {symbols:,} symbols at each of {characters:,} places "
        f"of the training part, {size / 1e9:.1f} GB"
    )
    if size > MOST_BYTES:
        raise CorpusError(
            f"{what}; at most {MOST_BYTES / 1e9:.1f} GB: make the part smaller by --split, whose third share is unused"
        )
    if size > (free := shutil.disk_usage(file.parent).free):
        raise CorpusError(f"{what}; {file.parent} has {free / 1e9:.1f} GB left: set CHARSTREAM_CACHE to another disk")


@dataclass(frozen=True)
class _Teacher:
    """A trained model, and the number in its vocabulary of each symbol of the text's, [V]."""

    model: CharLM
    numbers: Tensor
    sha256: str


def _open_teacher(path: Path, vocabulary: Vocabulary) -> _Teacher:
    """Open a run, a checkpoint or a bundle that can teach a text of these symbols.

    It may know more symbols than the text has: what it gives them is shared out among the others in proportion.

    Raises:
        CheckpointError: it cannot.
    """
    try:
        trained = load_model(path)
    except CheckpointError as error:
        raise CheckpointError(f"--distill-from {error}") from error
    if trained.vocabulary.unit != vocabulary.unit:
        raise CheckpointError(
            f"--distill-from {path}: it predicts {trained.vocabulary.unit}, and this run {vocabulary.unit}: a teacher "
            "of the same --vocabulary is needed"
        )
    known = set(trained.vocabulary.symbols)
    if unknown := [symbol for symbol in vocabulary.symbols if symbol not in known]:
        raise CheckpointError(
            f"--distill-from {path}: it does not know {count_noun(len(unknown), 'character')} of the text, "
            f"{unknown[0]!r} first: a teacher that was trained on all of them is needed"
        )
    numbers = torch.from_numpy(trained.vocabulary.symbols_to_tokens(vocabulary.symbols).astype(np.int64))
    return _Teacher(trained.model, numbers, _digest(trained.model, trained.vocabulary))


def _digest(model: CharLM, vocabulary: Vocabulary) -> str:
    """Return the sha256 of all that a model computes with, wherever it was read from."""
    digest = hashlib.sha256(json.dumps([model.config.model_dump(), vocabulary.symbols]).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


class _Teachers:
    """Models that read as one: `read_once` takes it for an evaluator, and gets probabilities instead of losses."""

    def __init__(self, teachers: list[_Teacher], device: torch.device) -> None:
        self._device = device
        self._teachers = [
            (teacher.model.to(device).requires_grad_(False).eval(), teacher.numbers.to(device)) for teacher in teachers
        ]

    def initial_state(self, streams: int) -> States:
        return tuple(tensor.cpu().numpy() for model, _ in self._teachers for tensor in model.initial_state(streams))

    @torch.inference_mode()
    def read(
        self, inputs: NDArray[np.integer], targets: NDArray[np.integer], state: States
    ) -> tuple[NDArray[np.float32], States]:
        """Return the mean of the probabilities of each symbol as the next one, [T, S, V], and the states after."""
        x = torch.from_numpy(inputs.astype(np.int64)).to(self._device)
        before, means = [torch.from_numpy(array).to(self._device) for array in state], []
        for some in x.split(max(1, LOGITS // (x.shape[1] * len(self._teachers[0][1])))):
            left, total = before, torch.zeros((), device=self._device)
            before = []
            for model, numbers in self._teachers:
                count = len(model.state_names)
                logits, after = model(numbers[some], tuple(left[:count]))
                left, before = left[count:], [*before, *after]
                total = total + torch.softmax(logits[..., numbers], -1)
            means.append(total / len(self._teachers))
        return torch.cat(means).cpu().numpy(), tuple(tensor.cpu().numpy() for tensor in before)


def _write(file: Path, teachers: _Teachers, corpus: Corpus, settings: TrainSettings) -> None:
    """Write the teachers' probabilities of the training part.

    Raises:
        CheckpointError: they are no numbers.
        CorpusError: the cache cannot be written.
        TooShort: the minutes of the run do not suffice.
    """
    text, symbols = corpus.training, len(corpus.vocabulary)
    total, read, nats, began = len(text), 0, 0.0, time.monotonic()
    with (
        Arithmetic(bf16=False, threads=settings.threads or torch.get_num_threads()).in_force(),
        ProgressBar("teachers", " chars", total) as bar,
        open_to_replace(file) as stream,
    ):
        for places, found in read_once(teachers, text, corpus.start):  # places [T, S], found [T, S, V]
            for part, rows in zip(places.T, found.transpose(1, 0, 2), strict=True):
                kept = rows[part < total]
                if len(kept):
                    stream.seek(int(part[0]) * symbols * _KIND.itemsize)
                    stream.write(kept.astype(_KIND).data)
                    of_text = kept[np.arange(len(kept)), text[part[: len(kept)]]]
                    nats -= float(np.log(np.maximum(of_text, _TINY)).sum(dtype=np.float64))
                    bar.advance(len(kept))
                    read += len(kept)
            if not math.isfinite(nats):
                names = " ".join(f"--distill-from {path}" for path in settings.distill_from)
                raise CheckpointError(f"{names}: what comes out is no number: the weights are no good")
            if not settings.resume:  # a run that goes on keeps to its steps
                _require_time(settings.minutes_limit, time.monotonic() - began, read / total)
    say(
        f"the teachers lose {nats / total:.3f} nats on the training part; their probabilities are in {file}, "
        f"{file.stat().st_size / 1e6:,.0f} MB"
    )


def _require_time(minutes: float | None, spent: float, share: float) -> None:
    """Raise TooShort where the teachers alone would take longer than the run may: `spent` seconds are for a share."""
    needed = spent / share
    if minutes is not None and spent > FIRST_LOOK and needed > minutes * 60:
        raise TooShort(
            f"--minutes {minutes:g} is too short: the teachers alone would take {needed / 60:.1f} minutes to read the "
            f"training part, which they do once for all students; --minutes {math.ceil(needed / 6 * 2) / 10:g} would do"
        )
