"""The loss of every symbol of a text under any model that evaluates losses, by one of three protocols.

- carried: the model reads the whole text once, from the initial state and the start character on.
- dynamic: the same, symbol after symbol in one stream, as the model may learn from what it reads.
- windows: the text is cut, and each window is read from the zero state without a start character (nanoGPT's protocol).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.network.char_lm import CharLM
from models.terminal import ProgressBar

__all__ = [
    "AverageEvaluator",
    "LossEvaluator",
    "States",
    "TorchEvaluator",
    "carried_losses",
    "carried_mean",
    "carried_nats",
    "evaluated_chars",
    "read_once",
    "single_reader_losses",
    "windows_losses",
]

STREAMS = 128
WARM_UP = 256  # symbols read before a stream's own part, not counted
STEPS = 128  # of one call
LOGITS = 1 << 24  # the most logits of one call
# States are taken for equal if they differ by no more than this, absolutely and relatively.
SEAM = 1e-4
# Reading parts again ends when their losses moved by no more than this on average, in nats.
SETTLED = 1e-5
# Or when twice in a row their mean moved by less: states of 8 bits are rounded at every step, and never join.
CALM = 1e-4

Floats = NDArray[np.float32]
Ids = NDArray[np.integer]
States = tuple[Floats, ...]


class LossEvaluator(Protocol):
    """A model that reads S texts side by side; it keeps no state, but gets it and returns it."""

    def initial_state(self, streams: int) -> States:
        """Return the state at the beginning of a text: one [S, H] for each name of the model's state."""
        ...

    def read(self, inputs: Ids, targets: Ids, state: States) -> tuple[Floats, States]:
        """Return the losses of T steps in nats, [T, S], and the state after them; inputs and targets are [T, S]."""
        ...


class TorchEvaluator:
    """The losses of a torch model, which is in eval mode while it reads."""

    def __init__(self, model: CharLM) -> None:
        self._model = model

    def initial_state(self, streams: int) -> States:
        return tuple(tensor.float().cpu().numpy() for tensor in self._model.initial_state(streams))

    @torch.inference_mode()
    def read(self, inputs: Ids, targets: Ids, state: States) -> tuple[Floats, States]:
        weight, training = self._model.head.weight, self._model.training
        x, y = (torch.from_numpy(ids.astype(np.int64)).to(weight.device) for ids in (inputs, targets))
        after = tuple(torch.from_numpy(array).to(weight) for array in state)
        steps = max(1, LOGITS // (inputs.shape[1] * len(weight)))
        self._model.eval()
        losses = []
        for some, following in zip(x.split(steps), y.split(steps), strict=True):
            logits, after = self._model(some, after)
            losses.append(nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none"))
        self._model.train(training)
        read = torch.cat(losses).view(x.shape).float().cpu().numpy()
        return read, tuple(tensor.float().cpu().numpy() for tensor in after)


class AverageEvaluator:
    """The losses of several models of one vocabulary as one: the mean of the probabilities that they give a symbol."""

    def __init__(self, evaluators: Sequence[LossEvaluator]) -> None:
        self._evaluators = evaluators

    def initial_state(self, streams: int) -> States:
        return tuple(array for evaluator in self._evaluators for array in evaluator.initial_state(streams))

    def read(self, inputs: Ids, targets: Ids, state: States) -> tuple[Floats, States]:
        left, losses, after = list(state), [], list[Floats]()
        for evaluator in self._evaluators:
            own = [left.pop(0) for _ in evaluator.initial_state(1)]
            found, following = evaluator.read(inputs, targets, tuple(own))
            losses.append(found.astype(np.float64))
            after += following
        mean = np.logaddexp.reduce(-np.stack(losses), 0) - np.log(len(losses))
        return (-mean).astype(np.float32), tuple(after)


@dataclass(frozen=True)
class _Parts:
    """A text cut into S contiguous parts that are read side by side; the last one may be shorter.

    Attributes:
        ids: the text, [N].
        start: the number of the start character, which stands before it.
        streams, length: the number of parts, S, and the symbols of each.
    """

    ids: Ids
    start: int
    streams: int
    length: int

    @classmethod
    def of(cls, ids: Ids, start: int) -> "_Parts":
        return cls(ids, start, *cls.sizes(len(ids)))

    @staticmethod
    def sizes(symbols: int) -> tuple[int, int]:
        """Return the number of parts and their length: fewer for a short text, each longer than its warm-up."""
        streams = max(1, min(STREAMS, symbols // (2 * WARM_UP)))
        return streams, -(-symbols // streams)

    def warm_up(self, evaluator: LossEvaluator) -> States:
        """Return the first state of each part: the initial state, or the one after the 256 symbols before the part."""
        everyone, state = np.arange(self.streams), evaluator.initial_state(self.streams)
        for places in self._places(everyone, -WARM_UP, 0):
            _, state = evaluator.read(*self._inputs_and_targets(places), state)
        for array, initial in zip(state, evaluator.initial_state(1), strict=True):
            array[:1] = initial
        return state

    def read(
        self, evaluator: LossEvaluator, state: States, parts: NDArray[np.integer], limit: int | None = None
    ) -> Iterator[tuple[NDArray[np.integer], Floats, States]]:
        """Read some parts, or their first `limit` symbols.

        Yields:
            Places in the text, [T, S], some of them beyond its end; the losses there, [T, S]; and the state after.
        """
        for places in self._places(parts, 0, min(limit or self.length, self.length)):
            losses, state = evaluator.read(*self._inputs_and_targets(places), state)
            yield places, losses, state

    def _places(self, parts: NDArray[np.integer], begin: int, end: int) -> Iterator[NDArray[np.integer]]:
        for first in range(begin, end, STEPS):
            yield parts * self.length + np.arange(first, min(first + STEPS, end))[:, None]

    def _inputs_and_targets(self, places: NDArray[np.integer]) -> tuple[Ids, Ids]:
        last = len(self.ids) - 1
        before = self.ids[(places - 1).clip(0, last)].astype(np.int64)
        return np.where(places == 0, self.start, before), self.ids[places.clip(0, last)]


def carried_mean(evaluator: LossEvaluator, ids: Ids, start: int, limit: int | None = None) -> float:
    """Return nearly the mean of `carried_losses`, in one reading.

    The text is cut into up to 128 contiguous parts that are read side by side. The first part begins as every text
    does, with the initial state and the start character. Each other part first reads the 256 symbols before it,
    uncounted, so that it begins with nearly the state that one reading of the whole text would have there. With a
    trained model the difference is below 0.001 nats (`tests/models/evaluation/test_evaluate.py` holds it).

    Args:
        ids: the text, [N] integers.
        start: the start character's number.
        limit: count at most this many symbols of each part: a sample, evenly spread over the text.
    """
    total, count = 0.0, 0
    for places, losses in read_once(evaluator, ids, start, limit):
        counted = places < len(ids)
        total += float(losses[counted].sum(dtype=np.float64))
        count += int(counted.sum())
    return total / count


def read_once(
    evaluator: LossEvaluator, ids: Ids, start: int, limit: int | None = None
) -> Iterator[tuple[NDArray[np.integer], Floats]]:
    """Read a text in parts side by side, as `carried_mean` says; yield places, [T, S], and what is read there."""
    parts = _Parts.of(ids, start)
    for places, found, _ in parts.read(evaluator, parts.warm_up(evaluator), np.arange(parts.streams), limit):
        yield places, found


def carried_losses(evaluator: LossEvaluator, ids: Ids, start: int, bar: ProgressBar) -> Floats:
    """Return the losses, [N], of one reading of the whole text.

    The text is read in parts side by side. A part whose first state differs from the last state of the part before it
    is read again from that one, until all of them join, or no part's losses move any more, or in 8 bits their mean. So
    the losses differ from those of a single reading by some 1e-5, unless what the model keeps shows only after more
    than a part.
    """
    parts, losses = _Parts.of(ids, start), np.full(len(ids), np.inf, np.float32)
    begins = parts.warm_up(evaluator)
    ends = tuple(array.copy() for array in begins)
    wrong: NDArray[np.integer] = np.arange(parts.streams)
    moved, calm = np.inf, 0
    while wrong.size and moved > SETTLED and calm < 2:
        moves, shift, read = np.zeros(wrong.size), 0.0, 0
        last = begin = tuple(array[wrong] for array in begins)
        for places, found, state in parts.read(evaluator, begin, wrong):
            counted = places < len(ids)
            change = np.where(counted, found - losses[places.clip(max=len(ids) - 1)], 0)
            moves += np.abs(change).sum(0)
            shift, read = shift + float(change.sum()), read + int(counted.sum())
            losses[places[counted]] = found[counted]
            bar.advance(int(counted.sum()))
            last = state
        moved = moves.max() / parts.length
        calm = calm + 1 if abs(shift) < CALM * read else 0
        for array, end in zip(ends, last, strict=True):
            array[wrong] = end
        wrong = 1 + _broken_seams(begins, ends)
        for array, before in zip(begins, ends, strict=True):
            array[wrong] = before[wrong - 1]
    return losses


def single_reader_losses(evaluator: LossEvaluator, ids: Ids, start: int, bar: ProgressBar) -> Floats:
    """Return the losses, [N], of one stream from the initial state and the start character on, in order."""
    before, state, losses = np.concatenate([[start], ids[:-1]]), evaluator.initial_state(1), []
    for first in range(0, len(ids), STEPS):
        some = slice(first, first + STEPS)
        found, state = evaluator.read(before[some, None], ids[some, None], state)
        losses.append(found[:, 0])
        bar.advance(len(found))
    return np.concatenate(losses)


def carried_nats(model: CharLM, ids: Ids, start: int, *, limit: int | None = None) -> float:
    """Return the mean loss per symbol of a torch model in nats, without dropout; see `carried_mean`."""
    return carried_mean(TorchEvaluator(model), ids, start, limit)


def evaluated_chars(symbols: int, limit: int | None = None) -> int:
    """Return how many symbols of a text `carried_nats` reads, warm-up included: its time is proportional to them."""
    streams, length = _Parts.sizes(symbols)
    return streams * (WARM_UP + min(limit or length, length))


def windows_losses(evaluator: LossEvaluator, ids: Ids, window: int, bar: ProgressBar) -> Floats:
    """Return the losses, [windows, W], of windows that are read from the zero state: x = ids[i : i + W], y one later.

    The stride is W; symbols at the end that fill no window are left out.
    """
    count = (len(ids) - 1) // window
    losses = np.empty((count, window), np.float32)
    for first in range(0, count, STREAMS):
        some = np.arange(first, min(first + STREAMS, count))
        places = some * window + np.arange(window)[:, None]
        found, _ = evaluator.read(ids[places], ids[places + 1], evaluator.initial_state(len(some)))
        losses[some] = found.T
        bar.advance(found.size)
    return losses


def _broken_seams(begins: States, ends: States) -> NDArray[np.integer]:
    """Return the parts with another last state than the first state of the part after them."""
    torn = np.zeros(len(begins[0]) - 1, bool)
    for begin, end in zip(begins, ends, strict=True):
        torn |= (np.abs(begin[1:] - end[:-1]) > SEAM * (1 + np.abs(end[:-1]))).any(1)
    return np.flatnonzero(torn)
