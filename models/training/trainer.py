"""One optimiser step, and everything that the next one depends on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

from models.network.char_lm import CharLM, State
from models.training.average import Average
from models.training.batches import Streams
from models.training.checkpoint import MODEL, part
from models.training.distributed import ALONE, Group
from models.training.loss import mean_nats, objective
from models.training.loss_guard import Guard
from models.training.optimizers import make_optimizer, update
from models.training.precision import Arithmetic
from models.training.settings import TrainSettings
from models.training.upload import sent

__all__ = ["StepOutcome", "Trainer"]

_OPTIMIZER, _STATE, _AVERAGE = "optimizer.", "state.", "average."
_DROPOUT = 2  # what random numbers are for; `Streams` has 0 and 1


class StepOutcome(NamedTuple):
    """What a step was like.

    Attributes:
        loss: mean loss per character, nats, without penalties.
        gradient_norm: before any clipping.
        taken: whether the guard let it reach the weights.
        update_ratio: |change of the weights| / |weights|, if it was asked for.
    """

    loss: float
    gradient_norm: float
    taken: bool
    update_ratio: float | None = None


class Trainer:
    """The model in training, its optimiser, the streams and the state carried along them.

    Args:
        model: on the device that trains.
        streams: those of this process.
        group: the processes that share the step.
    """

    def __init__(self, model: CharLM, streams: Streams, settings: TrainSettings, group: Group = ALONE) -> None:
        self.model, self.streams, self.settings, self.group = model.train(), streams, settings, group
        self.learned = [weights for weights in model.parameters() if weights.requires_grad]
        self.optimizer = make_optimizer(settings, self.learned)
        self.average = Average(model, settings.ema) if settings.ema else None
        self.guard = Guard(settings.batch * streams.sequence)
        self.state = model.initial_state(settings.batch // group.size)
        self._numbers = sent(torch.arange(settings.batch)[group.part(settings.batch), None], self.device)  # of streams
        self.step, self.arithmetic = 0, Arithmetic(bf16=False, threads=torch.get_num_threads())

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device

    def train_step(self, learning_rate: float, *, measure: bool = False) -> StepOutcome:
        """Learns from the next window of the streams, if the guard lets it. A device is waited for.

        Args:
            measure: also say how far the weights went.

        Raises:
            Diverged: one skipped step too many.
        """
        with self.arithmetic.in_force():
            before = _copies(list(self.model.norms.buffers()))
            loss, norm = self._gradients().tolist()
            taken = self.guard.accepts(self.step + 1, loss, norm)
            ratio = self._update(learning_rate, measure) if taken else None
            if not taken:
                self._forget_what_is_no_number(before)
            self.step += 1
            return StepOutcome(loss, norm, taken, None if ratio is None else ratio.item())

    def train_step_unguarded(self, learning_rate: float, *, measure: bool = False) -> Tensor:
        """The same, whatever the guard may say, and without waiting for a device.

        Returns:
            Loss, gradient's norm, and if it is asked for how far the weights went: [2] or [3].
        """
        with self.arithmetic.in_force():
            measured = self._gradients()
            ratio = self._update(learning_rate, measure)
            self.step += 1
            return measured if ratio is None else torch.cat([measured, ratio.to(measured.dtype).view(1)])

    def _gradients(self) -> Tensor:
        """Reads a window. Returns the loss and the gradient's norm, of the joint batch."""
        # Masks depend on the step's number only: no random generator has to be saved.
        torch.manual_seed(_seed(self.settings.seed, self.step, self.group.rank))
        x, y = (sent(ids, self.device) for ids in self.streams.window(self.step))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.arithmetic.bf16):
            logits, state = self.model(x, self._carried())
            nats = mean_nats(logits, y)
        self.optimizer.zero_grad()
        objective(nats, len(x), self.model, self.settings).backward()
        self.state = tuple(tensor.detach().to(self.model.head.weight.dtype) for tensor in state)
        gradients = [weights.grad for weights in self.learned if weights.grad is not None]
        loss = nats.detach()
        self.group.average([*gradients, loss])
        return torch.stack([loss, get_total_norm(gradients).to(loss.dtype)])

    def _update(self, learning_rate: float, measure: bool) -> Tensor | None:
        """Clips, and takes the step."""
        settings, before = self.settings, _copies(self.learned) if measure else None
        if settings.clip_value:
            clip_grad_value_(self.learned, settings.clip_value)
        if settings.clip_norm:
            clip_grad_norm_(self.learned, settings.clip_norm)
        update(self.optimizer, learning_rate, settings.matrix_decay)
        if self.average:
            self.average.update()
        return None if before is None else _distance(self.learned, before)

    def _carried(self) -> State:
        """The carried state, but the initial one in the streams that begin anew."""
        if self.streams.begins_epoch(self.step):
            return tuple(torch.zeros_like(tensor) for tensor in self.state)
        every = self.settings.restart_every
        if not every:
            return self.state
        restarts = (self._numbers + self.step) % every == 0
        return tuple(tensor.masked_fill(restarts, 0) for tensor in self.state)

    @torch.no_grad()
    def _forget_what_is_no_number(self, buffers: list[Tensor]) -> None:
        for tensor, before in zip(self.model.norms.buffers(), buffers, strict=True):
            tensor.copy_(before)
        finite = torch.stack([tensor.isfinite().all(dim=1) for tensor in self.state]).all(dim=0)
        self.state = tuple(tensor.masked_fill(~finite.unsqueeze(1), 0) for tensor in self.state)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the model is the one to judge and to keep: with the mean weights, if there are such."""
        if self.average is None:
            yield
        else:
            with self.average.in_place():
                yield

    def weights(self) -> dict[str, Tensor]:
        """The model's tensors, by names of a checkpoint."""
        return {MODEL + name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """All of it but numbers of steps and the guard's verdict, for `restore`. A matter of the whole group."""
        states = zip(self.model.state_names, map(self.group.gathered, self.state), strict=True)
        return {
            **self.weights(),
            **{_OPTIMIZER + name: tensor for name, tensor in self._optimizer_tensors()},
            **{_STATE + name: tensor for name, tensor in states},
            **({_AVERAGE + name: mean for name, mean in self.average.tensors().items()} if self.average else {}),
        }

    def _optimizer_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, weights in self.model.named_parameters():
            for kind, tensor in self.optimizer.state.get(weights, {}).items():
                yield f"{name}.{kind}", tensor

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Goes on where `tensors` were taken, after `step` steps. Raises RuntimeError, KeyError: they do not fit."""
        self.model.load_state_dict(part(tensors, MODEL))
        numbers = {name: number for number, name in enumerate(self._learned_names())}
        kept: dict[int, dict[str, Tensor]] = {}
        for key, tensor in part(tensors, _OPTIMIZER).items():
            name, kind = key.rsplit(".", 1)
            kept.setdefault(numbers[name], {})[kind] = tensor
        # It brings them to the device of their weights.
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": kept})
        mine = self.group.part(self.settings.batch)
        self.state = tuple(tensors[_STATE + name][mine].to(self.device) for name in self.model.state_names)
        if self.average:
            self.average.restore(part(tensors, _AVERAGE))
        self.step = step

    def _learned_names(self) -> list[str]:
        return [name for name, weights in self.model.named_parameters() if weights.requires_grad]


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, _DROPOUT, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _distance(weights: Sequence[Tensor], before: list[Tensor]) -> Tensor:
    """Of all weights together, relative to what they were."""
    changes = [new.detach() - old for new, old in zip(weights, before, strict=True)]
    return get_total_norm(changes) / get_total_norm(before)
