"""Dynamic evaluation: a model that goes on learning from what it has just read (Krause et al., 2018).

After each few symbols, whose losses are counted first, the weights take a step against their gradient, and a smaller
one back to where they began:

    w <- w - rate g / (r + e) + decay (w0 - w) r / mean(r)

r is the root of the mean square of a weight's gradient on the text that the model was trained on, and e keeps weights
that hardly ever have a gradient from jumping; the pull back is at most the whole way.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.data.text_files import CorpusError
from models.evaluation.losses import States
from models.network.char_lm import CharLM, State

__all__ = ["RATE", "DynamicEvaluator"]

SEGMENT = 32  # symbols between two steps of the weights
RATE, DECAY = 3e-4, 2e-3
EPSILON = 1e-2  # of the mean of r: what is added to it
SAMPLES, WARM_UP = 200, 64  # segments by which r is measured, and the symbols that are read before each


class DynamicEvaluator:
    """The losses of one reader, in order: what it read changes what it reads next. See `LossEvaluator`.

    Args:
        model: stays as it is; a copy learns.
        training: numbers of the symbols that the model was trained on, [N]; they set how far each weight moves.
        rate: how far the weights move, by the formula above.

    Raises:
        CorpusError: there are too few symbols to see how far each weight should move.
    """

    def __init__(self, model: CharLM, training: NDArray[np.integer], rate: float = RATE) -> None:
        self._model = copy.deepcopy(model).eval().requires_grad_()
        self._rate = rate
        self._weights = list(self._model.parameters())
        self._first = [weight.detach().clone() for weight in self._weights]
        roots = self._gradient_roots(training)
        mean = torch.cat([root.flatten() for root in roots]).mean().clamp(min=1e-12)
        self._steps = [rate / (root + EPSILON * mean) for root in roots]
        self._pulls = [(DECAY * root / mean).clamp(max=1.0) for root in roots]

    def initial_state(self, streams: int) -> States:
        return tuple(tensor.numpy() for tensor in self._model.initial_state(streams))

    def read(
        self, inputs: NDArray[np.integer], targets: NDArray[np.integer], state: States
    ) -> tuple[NDArray[np.float32], States]:
        """Return the losses of T steps in nats, [T, 1], each before it was learnt from, and the state after them."""
        x, y = (torch.from_numpy(ids.astype(np.int64)) for ids in (inputs, targets))
        after: State = tuple(torch.from_numpy(array) for array in state)
        losses = []
        for some, following in zip(x.split(SEGMENT), y.split(SEGMENT), strict=True):
            found, after = self._gradients(some, following, after)
            losses.append(found)
            self._learn()
        return torch.cat(losses).numpy(), tuple(tensor.numpy() for tensor in after)

    def _gradients(self, x: Tensor, y: Tensor, state: State) -> tuple[Tensor, State]:
        """Leave the gradients of a segment's mean loss in the weights; return its losses and the state after it."""
        self._model.zero_grad()
        logits, after = self._model(x, state)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
        losses.mean().backward()
        return losses.detach(), tuple(tensor.detach() for tensor in after)

    @torch.no_grad()
    def _learn(self) -> None:
        for weight, first, step, pull in zip(self._weights, self._first, self._steps, self._pulls, strict=True):
            if weight.grad is not None:
                weight.addcmul_(step, weight.grad, value=-1)
            weight.lerp_(first, pull)

    def _gradient_roots(self, training: NDArray[np.integer]) -> list[Tensor]:
        """Return the root of the mean square of each weight's gradient, over segments that are spread over the text."""
        squares, count = [torch.zeros_like(weight) for weight in self._weights], 0
        for before, segment in _segments(training):
            with torch.no_grad():
                _, state = self._model(before, self._model.initial_state(1))
            self._gradients(segment[:-1], segment[1:], state)
            for square, weight in zip(squares, self._weights, strict=True):
                if weight.grad is not None:
                    square.addcmul_(weight.grad, weight.grad)
            count += 1
        return [(square / max(1, count)).sqrt() for square in squares]


def _segments(ids: NDArray[np.integer]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what stands before a segment, [W, 1], and the segment with one symbol more, [S + 1, 1]."""
    length = WARM_UP + SEGMENT + 1
    if len(ids) < length:
        raise CorpusError(
            f"the training part has {len(ids):,} symbols; --dynamic needs {length} at least, by which it sees how far "
            "each weight should move"
        )
    count = min(SAMPLES, max(1, len(ids) // length))
    for number in range(count):
        place = number * (len(ids) // count)
        window = torch.from_numpy(ids[place : place + length].astype(np.int64))[:, None]
        if len(window) == length:
            yield window[:WARM_UP], window[WARM_UP:]
