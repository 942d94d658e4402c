"""Validation with a carried state: what one reader of the whole held-out text would lose per symbol."""

import numpy as np
from numpy.typing import NDArray

from models.evaluation.losses import WARM_UP, Parts, TorchReader, carried_mean
from models.network.char_lm import CharLM

__all__ = ["carried_nats", "evaluated_chars"]


def carried_nats(model: CharLM, ids: NDArray[np.integer], start: int, *, limit: int | None = None) -> float:
    """Mean loss per symbol, natural log, without dropout.

    The text is cut into up to 128 contiguous parts that are read side by side. The first part begins as every text
    does, with the initial state and the start character. Each other part first reads the 256 symbols before it,
    uncounted, so that its state is, but for what the model still knows beyond 256 symbols, the one that a single
    reader would carry there. On a trained model the difference to the single reader is below 0.001 nats
    (`tests/models/evaluation/test_evaluate.py` holds it). `models.reading.carried_losses` is exact, and takes longer.

    Args:
        ids: the held-out text's symbols, [N] integers.
        start: the start character's number.
        limit: count only so many symbols of each part: a sample, evenly spread over the text.
    """
    return carried_mean(TorchReader(model), ids, start, limit)


def evaluated_chars(held_out: int, limit: int | None = None) -> int:
    """How many symbols `carried_nats` reads, warm-up included: what its time is proportional to."""
    streams, length = Parts.sizes(held_out)
    return streams * (WARM_UP + min(limit or length, length))
