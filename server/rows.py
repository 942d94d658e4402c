"""The arrays that hold the running rows: state in two halves that alternate, parameters in one.

A run reads the current half of its group and writes the other, which then becomes current: nothing is copied, and the
state before the run is still there after it. Slots are the scheduler's.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import ModelShape

__all__ = ["RowState", "Rows"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RowState:
    """All that a row is, outside the arrays.

    Attributes:
        token: the last character.
        state: one [H] per name of the model's state.
        position: of the last character; the start character has 0.
    """

    token: int
    state: tuple[Floats, ...]
    position: int
    seed: int
    temperature: float


class Rows:
    """Room for `max_rows` rows in groups of `max_batch`."""

    def __init__(self, shape: ModelShape, max_rows: int, max_batch: int) -> None:
        self.max_batch = max_batch
        self.token = np.zeros((2, max_rows), np.int64)
        self.state = [np.zeros((2, max_rows, shape.hidden), np.float32) for _ in shape.state_names]
        self.position = np.zeros(max_rows, np.uint64)
        self.seed = np.zeros(max_rows, np.uint64)
        self.temperature = np.ones(max_rows, np.float32)
        self._half = [0] * -(-max_rows // max_batch)

    def put(self, slot: int, row: RowState) -> None:
        half = self._current(slot)
        self.token[half, slot] = row.token
        for array, values in zip(self.state, row.state, strict=True):
            array[half, slot] = values
        self.position[slot], self.seed[slot], self.temperature[slot] = row.position, row.seed, row.temperature

    def take(self, slot: int) -> RowState:
        """A copy of what is in the slot."""
        half = self._current(slot)
        return RowState(
            token=int(self.token[half, slot]),
            state=tuple(array[half, slot].copy() for array in self.state),
            position=int(self.position[slot]),
            seed=int(self.seed[slot]),
            temperature=float(self.temperature[slot]),
        )

    def move(self, source: int, target: int) -> None:
        old, new = self._current(source), self._current(target)
        for array in self._halved():
            array[new, target] = array[old, source]
        for parameter in self._single():
            parameter[target] = parameter[source]

    def before(self, first: int, count: int) -> list[NDArray[np.generic]]:
        """Views [count], [count, H], ... of the token and the state that a run reads."""
        return self._views(self._current(first), first, count)

    def after(self, first: int, count: int) -> list[NDArray[np.generic]]:
        """Views of the token and the state that a run writes."""
        return self._views(1 - self._current(first), first, count)

    def advance(self, first: int, steps: NDArray[np.int64]) -> None:
        """The group's run is done: what it wrote is current, and its rows are `steps` [count] further."""
        self._half[first // self.max_batch] ^= 1
        self.position[first : first + len(steps)] += steps.astype(np.uint64)

    def _views(self, half: int, first: int, count: int) -> list[NDArray[np.generic]]:
        return [array[half, first : first + count] for array in self._halved()]

    def _halved(self) -> list[NDArray[Any]]:
        return [self.token, *self.state]

    def _single(self) -> list[NDArray[Any]]:
        return [self.position, self.seed, self.temperature]

    def _current(self, slot: int) -> int:
        return self._half[slot // self.max_batch]
