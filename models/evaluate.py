"""Validation with a carried state: what one reader of the whole held-out text would lose per character."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.model import CharLM

__all__ = ["UNCOUNTED", "WARM_UP", "WINDOW", "carried_nats", "evaluated_chars", "parts"]

STREAMS = 128
WARM_UP = 256  # characters read before a stream's own part, not counted
WINDOW = 128  # steps per call
UNCOUNTED = -100  # cross_entropy's ignore_index


@torch.inference_mode()
def carried_nats(model: CharLM, ids: NDArray[np.integer], start: int, *, limit: int | None = None) -> float:
    """Mean loss per character, natural log, in float32 and without dropout.

    The text is cut into up to 128 contiguous parts that are read side by side. The first part begins as every text
    does, with the initial state and the start character. Each other part first reads the 256 characters before it,
    uncounted, so that its state is, but for what the model still knows beyond 256 characters, the one that a single
    reader would carry there. On a trained model the difference to the single reader is below 0.001 nats
    (`tests/models/test_evaluate.py` holds it).

    Args:
        ids: the held-out text's characters, [N] integers.
        start: the start character's number.
        limit: count only so many characters of each part: a sample, evenly spread over the text.
    """
    inputs, targets = parts(ids, start)
    chars = len(targets) if limit is None else min(limit, len(targets))
    training = model.training
    model.eval()
    state = model.initial_state(inputs.shape[1])
    for window in inputs[:WARM_UP].split(WINDOW):
        _, state = model(window, state)
    for tensor in state:
        tensor[0] = 0
    total = 0.0
    for x, y in zip(inputs[WARM_UP:][:chars].split(WINDOW), targets[:chars].split(WINDOW), strict=True):
        logits, state = model(x, state)
        total += _summed_loss(logits, y)
    model.train(training)
    return total / int((targets[:chars] != UNCOUNTED).sum())


def evaluated_chars(held_out: int, limit: int | None = None) -> int:
    """How many characters `carried_nats` reads, warm-up included: what its time is proportional to."""
    streams, length = _shape(held_out)
    return streams * (WARM_UP + min(limit or length, length))


def _shape(chars: int) -> tuple[int, int]:
    """Streams and their length: fewer streams for a short text, so that each is longer than its warm-up."""
    streams = max(1, min(STREAMS, chars // (2 * WARM_UP)))
    return streams, -(-chars // streams)


def parts(ids: NDArray[np.integer], start: int) -> tuple[Tensor, Tensor]:
    """Inputs [W + C, S], of which the first W are the warm-up, and targets [C, S]; -100 pads the last part."""
    streams, length = _shape(len(ids))
    before = np.concatenate([[start], ids[:-1].astype(np.int64)])
    starts = np.arange(streams) * length
    places = starts + np.arange(-WARM_UP, length)[:, None]
    inputs = before[places.clip(0, len(ids) - 1)]
    targets = np.full(streams * length, UNCOUNTED, np.int64)
    targets[: len(ids)] = ids
    return torch.from_numpy(inputs), torch.from_numpy(targets.reshape(streams, length).T.copy())


def _summed_loss(logits: Tensor, targets: Tensor) -> float:
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=UNCOUNTED, reduction="sum"
    ).item()
