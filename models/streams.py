"""The training text as parallel streams for truncated backpropagation."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.text import CorpusError

__all__ = ["Streams", "require_length"]


class Streams:
    """B readers, evenly spread over a text that is read as a circle.

    Each goes on where its last window ended, for ever, so the state that is carried never meets a jump but the seam
    between the text's end and its beginning. A window depends on its number only: there is no position to save.

    Args:
        ids: the text's characters, [N] integers.
    """

    def __init__(self, ids: NDArray[np.integer], batch: int, sequence: int) -> None:
        self._ids, self._sequence = ids, sequence
        self._starts = np.arange(batch) * (len(ids) // batch)

    def window(self, number: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one step, each [T, B] int64; the targets are the inputs, one character later."""
        offsets = number * self._sequence + np.arange(self._sequence + 1)
        ids = torch.from_numpy(self._ids[(self._starts + offsets[:, None]) % len(self._ids)].astype(np.int64))
        return ids[:-1], ids[1:]


def require_length(chars: int, batch: int, sequence: int) -> None:
    """Raises CorpusError unless every stream has one window of its own; the message has sizes that would do."""
    if chars >= batch * (sequence + 1):
        return
    fitting_batch, fitting_sequence = batch, sequence
    while chars < fitting_batch * (fitting_sequence + 1):
        if fitting_batch >= fitting_sequence:
            fitting_batch = max(1, fitting_batch // 2)
        else:
            fitting_sequence //= 2
    raise CorpusError(
        f"the training part has {chars:,} characters, but {batch} streams of {sequence} characters need "
        f"{batch * (sequence + 1):,}; --batch {fitting_batch} --sequence {fitting_sequence} would do"
    )
