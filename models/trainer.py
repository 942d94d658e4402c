"""One optimiser step, and everything that the next one depends on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.checkpoint import MODEL, part
from models.model import CharLM, State
from models.streams import Streams

__all__ = ["Arithmetic", "Diverged", "Trainer"]

_OPTIMIZER, _STATE, _RANDOM = "optimizer.", "state.", "random"
_BETAS = (0.9, 0.99)
# A stream forgets its state after so many windows, the streams in turn. Without it the initial state is never seen
# again after the first step, and a model that reads on without a fault writes rubbish at the beginning of a text.
RESTART_EVERY = 32


class Arithmetic(NamedTuple):
    """What the numbers of a step are computed with; the weights and the optimiser are float32 in any case."""

    bf16: bool
    threads: int


class Diverged(RuntimeError):
    """The loss or the gradient is not finite; the weights are still those of before the step."""


class Trainer:
    """The model in training, AdamW, the streams and the state carried along them.

    Args:
        batch: streams of `streams`.
        clip: largest norm of the gradient.
    """

    def __init__(self, model: CharLM, streams: Streams, *, batch: int, weight_decay: float, clip: float) -> None:
        self.model, self.streams, self.clip = model.train(), streams, clip
        self.optimizer = torch.optim.AdamW(model.parameters(), betas=_BETAS, weight_decay=weight_decay, fused=True)
        self.state = model.initial_state(batch)
        self.step, self.arithmetic = 0, Arithmetic(bf16=False, threads=torch.get_num_threads())

    def train_step(self, learning_rate: float) -> float:
        """Learns from the next window of the streams. Returns its mean loss in nats. Raises Diverged."""
        with _threads(self.arithmetic.threads):
            return self._train_step(learning_rate)

    def _train_step(self, learning_rate: float) -> float:
        x, y = self.streams.window(self.step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.arithmetic.bf16):
            logits, state = self.model(x, self._restarted())
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), y.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        if not (loss.isfinite() and norm.isfinite()):
            raise Diverged(f"step {self.step + 1}: the loss is {loss.item():g}, the gradient's norm {norm.item():g}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.state = tuple(tensor.detach().float() for tensor in state)
        self.step += 1
        return loss.item()

    def _restarted(self) -> State:
        """The carried state, but the initial one in the streams whose turn it is."""
        restarts = (self.step + torch.arange(len(self.state[0]))) % RESTART_EVERY == 0
        return tuple(tensor.masked_fill(restarts.unsqueeze(1), 0) for tensor in self.state)

    def tensors(self) -> dict[str, Tensor]:
        """All of it but the step's number, for `restore`."""
        optimizer = self.optimizer.state_dict()["state"]
        return {
            **{MODEL + name: tensor for name, tensor in self.model.state_dict().items()},
            **{f"{_OPTIMIZER}{i}.{name}": tensor for i, kept in optimizer.items() for name, tensor in kept.items()},
            **{_STATE + name: tensor for name, tensor in zip(self.model.state_names, self.state, strict=True)},
            _RANDOM: torch.get_rng_state(),
        }

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Goes on where `tensors` were taken, after `step` steps."""
        self.model.load_state_dict(part(tensors, MODEL))
        kept: dict[int, dict[str, Tensor]] = {}
        for key, tensor in part(tensors, _OPTIMIZER).items():
            index, name = key.split(".")
            kept.setdefault(int(index), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": kept, "param_groups": groups})
        self.state = tuple(tensors[_STATE + name] for name in self.model.state_names)
        torch.set_rng_state(tensors[_RANDOM])
        self.step = step


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
