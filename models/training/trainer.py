"""One optimiser step, and everything that the next one depends on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

from models.network.char_lm import CharLM, State
from models.training.batches import DROPOUT, Streams, send
from models.training.distributed import ALONE, Group
from models.training.loss import distillation_nats, mean_nats, training_loss
from models.training.loss_guard import LossGuard, StepOutcome
from models.training.optimizers import (
    MODEL,
    WeightAverage,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    tensors_under,
    update,
)
from models.training.precision import Arithmetic
from models.training.settings import TrainSettings

__all__ = ["Trainer"]

_OPTIMIZER, _STATE, _AVERAGE = "optimizer.", "state.", "average."


class Trainer:
    """The model in training, its optimiser, the streams and the state carried along them.

    Args:
        model: on the device that trains.
        streams: those of this process.
        group: the processes that share the step.
    """

    def __init__(self, model: CharLM, streams: Streams, settings: TrainSettings, group: Group = ALONE) -> None:
        self.model, self.streams, self.settings, self.group = model.train(), streams, settings, group
        self.trainable = [weights for weights in model.parameters() if weights.requires_grad]
        self.optimizer = make_optimizer(settings, self.trainable)
        self.average = WeightAverage(model, settings.ema) if settings.ema else None
        self.guard = LossGuard(settings.batch * streams.sequence)
        self.state = model.initial_state(settings.batch // group.size)
        self._stream_numbers = send(torch.arange(settings.batch)[group.own_streams(settings.batch), None], self.device)
        self.step, self.arithmetic = 0, Arithmetic(bf16=False, threads=torch.get_num_threads())

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device

    def train_step(self, learning_rate: float, *, measure: bool = False) -> StepOutcome:
        """Learn from the next window of the streams, if the guard lets it. Waits for the device.

        Args:
            measure: also measure the relative change of the weights.

        Raises:
            Diverged: one skipped step too many.
        """
        with self.arithmetic.in_force():
            before = _copies(list(self.model.norms.buffers()))
            loss, norm = self._compute_gradients().tolist()
            accepted = self.guard.judge(self.step + 1, loss, norm)
            ratio = self._update(learning_rate, measure) if accepted else None
            if not accepted:
                self._discard_non_finite(before)
            self.step += 1
            return StepOutcome(loss, norm, accepted, None if ratio is None else ratio.item())

    def train_step_unguarded(self, learning_rate: float, *, measure: bool = False) -> Tensor:
        """Learn from the next window whatever the guard may say, and without waiting for the device.

        Returns:
            Loss, gradient's norm, and with `measure` the relative change of the weights: [2] or [3].
        """
        with self.arithmetic.in_force():
            measured = self._compute_gradients()
            ratio = self._update(learning_rate, measure)
            self.step += 1
            return measured if ratio is None else torch.cat([measured, ratio.to(measured.dtype).view(1)])

    def _compute_gradients(self) -> Tensor:
        """Compute the gradients of a window.

        Returns the loss against the text, and the gradient's norm, of the joint batch: [2].
        """
        # Masks depend on the step's number only: no random generator has to be saved.
        torch.manual_seed(_seed(self.settings.seed, self.step, self.group.rank))
        x, y = (send(ids, self.device) for ids in self.streams.window(self.step))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.arithmetic.bf16):
            logits, state = self.model(x, self._state_before_step())
            nats = mean_nats(logits, y)
            objective = self._objective(logits, nats)
        self.optimizer.zero_grad()
        settings = self.settings
        training_loss(objective, len(x), self.model, settings.loss, settings.l1, settings.l2).backward()
        self.state = tuple(tensor.detach().to(self.model.head.weight.dtype) for tensor in state)
        gradients = [weights.grad for weights in self.trainable if weights.grad is not None]
        loss = nats.detach()
        self.group.average([*gradients, loss])
        return torch.stack([loss, get_total_norm(gradients).to(loss.dtype)])

    def _objective(self, logits: Tensor, nats: Tensor) -> Tensor:
        """Return the loss per character to learn from: against the text, and with teachers against them as well."""
        taught, weight = self.streams.taught_window(self.step), self.settings.distill_weight
        if taught is None:
            return nats
        return (1 - weight) * nats + weight * distillation_nats(logits, send(taught, self.device))

    def _update(self, learning_rate: float, measure: bool) -> Tensor | None:
        """Clip the gradients and take the step. Returns the relative change of the weights if it is to be measured."""
        settings, before = self.settings, _copies(self.trainable) if measure else None
        if settings.clip_value:
            clip_grad_value_(self.trainable, settings.clip_value)
        if settings.clip_norm:
            clip_grad_norm_(self.trainable, settings.clip_norm)
        update(self.optimizer, learning_rate, settings.matrix_decay)
        if self.average:
            self.average.update()
        return None if before is None else _relative_change(self.trainable, before)

    def _state_before_step(self) -> State:
        """Return the carried state, but the initial one in the streams that begin anew."""
        if self.streams.begins_epoch(self.step):
            return tuple(torch.zeros_like(tensor) for tensor in self.state)
        every = self.settings.restart_every
        if not every:
            return self.state
        restarts = (self._stream_numbers + self.step) % every == 0
        return tuple(tensor.masked_fill(restarts, 0) for tensor in self.state)

    @torch.no_grad()
    def _discard_non_finite(self, buffers: list[Tensor]) -> None:
        for tensor, before in zip(self.model.norms.buffers(), buffers, strict=True):
            tensor.copy_(before)
        finite = torch.stack([tensor.isfinite().all(dim=1) for tensor in self.state]).all(dim=0)
        self.state = tuple(tensor.masked_fill(~finite.unsqueeze(1), 0) for tensor in self.state)

    @contextmanager
    def use_average(self) -> Iterator[None]:
        """Give the model its mean weights, if `--ema`, inside the context: for validation and the best checkpoint."""
        if self.average is None:
            yield
        else:
            with self.average.apply():
                yield

    def weights(self) -> dict[str, Tensor]:
        """Return the model's tensors, by their names in a checkpoint."""
        return {MODEL + name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors for `restore`: all but the step and the guard's statistics. The whole group calls it."""
        states = zip(self.model.state_names, map(self.group.gather, self.state), strict=True)
        return {
            **self.weights(),
            **{_OPTIMIZER + name: tensor for name, tensor in optimizer_tensors(self.optimizer, self.model)},
            **{_STATE + name: tensor for name, tensor in states},
            **({_AVERAGE + name: mean for name, mean in self.average.tensors().items()} if self.average else {}),
        }

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on where `tensors` were taken, after `step` steps. Raises RuntimeError, KeyError: they do not fit."""
        self.model.load_state_dict(tensors_under(MODEL, tensors))
        restore_optimizer(self.optimizer, self.model, tensors_under(_OPTIMIZER, tensors))
        mine = self.group.own_streams(self.settings.batch)
        self.state = tuple(tensors[_STATE + name][mine].to(self.device) for name in self.model.state_names)
        if self.average:
            self.average.restore(tensors_under(_AVERAGE, tensors))
        self.step = step


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, DROPOUT, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _relative_change(weights: Sequence[Tensor], before: list[Tensor]) -> Tensor:
    """Return |change of the weights| / |weights before|."""
    changes = [new.detach() - old for new, old in zip(weights, before, strict=True)]
    return get_total_norm(changes) / get_total_norm(before)
