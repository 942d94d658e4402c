"""The loss of every symbol of a text, by one of two protocols, of whatever can read it.

- carried: one reader takes the whole text, from the initial state and the start character on.
- windows: the text is cut, and each window is read from the zero state without a start character (nanoGPT's protocol).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.network.char_lm import CharLM
from models.progress import ProgressBar

__all__ = ["WARM_UP", "Parts", "Reader", "States", "TorchReader", "carried_losses", "carried_mean", "windows_losses"]

STREAMS = 128
WARM_UP = 256  # symbols read before a stream's own part, not counted
STEPS = 128  # of a call
LOGITS = 1 << 24  # numbers in those of one call, at most
# Two readers stand in the same place if their states differ by no more than this, beside what the state is.
SEAM = 1e-4
# Or if it makes no difference: nats by which the losses of a part that was read again moved, on average.
SETTLED = 1e-5

Floats = NDArray[np.float32]
Ids = NDArray[np.integer]
States = tuple[Floats, ...]


class Reader(Protocol):
    """A model that reads S texts side by side; it only goes on from the state that it is given."""

    def initial_state(self, streams: int) -> States:
        """As every text begins: one [S, H] for each name of the model's state."""
        ...

    def read(self, inputs: Ids, targets: Ids, state: States) -> tuple[Floats, States]:
        """Losses of T steps in nats, [T, S], and the state after: inputs, targets [T, S]."""
        ...


class TorchReader:
    """A torch model, in eval mode while it reads."""

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


@dataclass(frozen=True)
class Parts:
    """A text cut into S contiguous parts that are read side by side; the last one may be shorter.

    Attributes:
        ids: the text, [N].
        start: the number of what stands before it.
        streams, length: S parts of so many symbols.
    """

    ids: Ids
    start: int
    streams: int
    length: int

    @classmethod
    def of(cls, ids: Ids, start: int) -> "Parts":
        return cls(ids, start, *cls.sizes(len(ids)))

    @staticmethod
    def sizes(symbols: int) -> tuple[int, int]:
        """Streams and their length; fewer of a short text, so that each is longer than its warm-up."""
        streams = max(1, min(STREAMS, symbols // (2 * WARM_UP)))
        return streams, -(-symbols // streams)

    def warmed_up(self, reader: Reader) -> States:
        """What each part begins with: the initial state, or the state after the symbols before it."""
        everyone, state = np.arange(self.streams), reader.initial_state(self.streams)
        for places in self._places(everyone, -WARM_UP, 0):
            _, state = reader.read(*self._inputs_and_targets(places), state)
        for array, initial in zip(state, reader.initial_state(1), strict=True):
            array[:1] = initial
        return state

    def read(
        self, reader: Reader, state: States, parts: NDArray[np.integer], limit: int | None = None
    ) -> Iterator[tuple[NDArray[np.integer], Floats, States]]:
        """Reads some parts, or their first `limit` symbols: gives places [T, S] of the text, beyond its end too, the
        losses [T, S] there, and the state after."""
        for places in self._places(parts, 0, min(limit or self.length, self.length)):
            losses, state = reader.read(*self._inputs_and_targets(places), state)
            yield places, losses, state

    def _places(self, parts: NDArray[np.integer], begin: int, end: int) -> Iterator[NDArray[np.integer]]:
        for first in range(begin, end, STEPS):
            yield parts * self.length + np.arange(first, min(first + STEPS, end))[:, None]

    def _inputs_and_targets(self, places: NDArray[np.integer]) -> tuple[Ids, Ids]:
        last = len(self.ids) - 1
        before = self.ids[(places - 1).clip(0, last)].astype(np.int64)
        return np.where(places == 0, self.start, before), self.ids[places.clip(0, last)]


def carried_mean(reader: Reader, ids: Ids, start: int, limit: int | None = None) -> float:
    """Mean of `carried_losses`, but for what a model still knows beyond 256 symbols: the parts start after a warm-up.

    Args:
        ids: the text, [N].
        start: the start character's number.
        limit: count only so many symbols of each part: a sample, evenly spread over the text.
    """
    parts, total, count = Parts.of(ids, start), 0.0, 0
    for places, losses, _ in parts.read(reader, parts.warmed_up(reader), np.arange(parts.streams), limit):
        counted = places < len(ids)
        total += float(losses[counted].sum(dtype=np.float64))
        count += int(counted.sum())
    return total / count


def carried_losses(reader: Reader, ids: Ids, start: int, bar: ProgressBar) -> Floats:
    """What one reader of the whole text loses at each symbol, [N].

    The text is read in parts side by side. A part whose first state turns out not to be the one in which the part
    before it ended is read again from that one, until all of them join, or no part's losses move any more: so the
    losses are the single reader's, but for some 1e-5, unless a model hides what it keeps for longer than a part.
    """
    parts, losses = Parts.of(ids, start), np.full(len(ids), np.inf, np.float32)
    begins = parts.warmed_up(reader)
    ends = tuple(array.copy() for array in begins)
    wrong: NDArray[np.integer] = np.arange(parts.streams)
    moved = np.inf
    while wrong.size and moved > SETTLED:
        moves = np.zeros(wrong.size)
        last = begin = tuple(array[wrong] for array in begins)
        for places, found, state in parts.read(reader, begin, wrong):
            counted = places < len(ids)
            moves += np.where(counted, np.abs(found - losses[places.clip(max=len(ids) - 1)]), 0).sum(0)
            losses[places[counted]] = found[counted]
            bar.advance(int(counted.sum()))
            last = state
        moved = moves.max() / parts.length
        for array, end in zip(ends, last, strict=True):
            array[wrong] = end
        wrong = 1 + _torn(begins, ends)
        for array, before in zip(begins, ends, strict=True):
            array[wrong] = before[wrong - 1]
    return losses


def windows_losses(reader: Reader, ids: Ids, window: int, bar: ProgressBar) -> Floats:
    """What is lost in windows that are read from the zero state, [windows, W]: x = ids[i : i + W], y one later.

    The stride is W, and what is left at the end of the text makes no window.
    """
    count = (len(ids) - 1) // window
    losses = np.empty((count, window), np.float32)
    for first in range(0, count, STREAMS):
        some = np.arange(first, min(first + STREAMS, count))
        places = some * window + np.arange(window)[:, None]
        found, _ = reader.read(ids[places], ids[places + 1], reader.initial_state(len(some)))
        losses[some] = found.T
        bar.advance(found.size)
    return losses


def _torn(begins: States, ends: States) -> NDArray[np.integer]:
    """The parts in whose last state the next one does not begin."""
    torn = np.zeros(len(begins[0]) - 1, bool)
    for begin, end in zip(begins, ends, strict=True):
        torn |= (np.abs(begin[1:] - end[:-1]) > SEAM * (1 + np.abs(end[:-1]))).any(1)
    return np.flatnonzero(torn)
