"""Training shared between processes, as torchrun starts them: each reads its own streams, all take the same steps."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from models.training.settings import TrainSettings

__all__ = [
    "ALONE",
    "CannotShare",
    "FirstFailed",
    "Group",
    "is_restarted_by_torchrun",
    "join_group",
    "may_meet_the_dead",
    "require_shareable",
]

T = TypeVar("T")


class CannotShare(ValueError):
    """Several processes cannot do what is asked for; the message is one line."""


class FirstFailed(RuntimeError):
    """The first process of the group failed, and reports it itself."""


@dataclass(frozen=True)
class Group:
    """The processes of a run. All of them call each method, in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that decides, writes and speaks."""
        return self.rank == 0

    def own_streams(self, streams: int) -> slice:
        """Return which of all streams this process reads."""
        return slice(self.rank * streams // self.size, (self.rank + 1) * streams // self.size)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over the processes in the place of each tensor."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of all processes, [sum of B, ...]."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def from_first(self, work: Callable[[], T]) -> T:
        """Do `work` in the first process and return its result in all; where it fails, the others raise FirstFailed."""
        if self.size == 1:
            return work()
        result, error = _outcome(work) if self.is_first else (None, None)
        message: list[Any] = [(result, error is None)]
        dist.broadcast_object_list(message)
        if error is not None:
            raise error
        value, succeeded = message[0]
        if not succeeded:
            raise FirstFailed("the first process failed")
        return value


ALONE = Group()


@contextmanager
def join_group(device: str) -> Iterator[Group]:
    """Join the group of torchrun's variables; without them this process is alone."""
    if "WORLD_SIZE" not in os.environ:
        yield ALONE
        return
    # What is sent by `from_first` lies in the host's memory: by NCCL it would have to wait for the GPUs.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def is_restarted_by_torchrun() -> bool:
    """Return whether torchrun starts the same command again where a process dies: so it should go on by itself.

    torchrun's variable for the number of restarts does not count those after a machine left or joined.
    """
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def may_meet_the_dead() -> bool:
    """Return whether a group that begins again may wait for ever for a process that died.

    torchrun of torch 2.13 keeps one store for all beginnings, with the addresses of the processes of the one before
    (torch/distributed/rendezvous.py takes it for a new one), unless TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 is set.
    """
    return is_restarted_by_torchrun() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def require_shareable(settings: TrainSettings, group: Group) -> None:
    """Raise CannotShare where several processes would not do what one does."""
    if settings.batch % group.size:
        fitting = max(group.size, settings.batch // group.size * group.size)
        raise CannotShare(f"--batch {settings.batch} cannot be shared by {group.size} processes; --batch {fitting} can")
    if group.size > 1 and settings.norm == "batch":
        raise CannotShare(
            "--norm batch: each process would normalise by its own streams only; use --norm layer, or one process"
        )


def _outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error
