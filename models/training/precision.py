"""The device and the arithmetic of a training step."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

__all__ = ["Arithmetic", "CannotCompute", "allow_tf32", "device_of"]


class CannotCompute(ValueError):
    """A device or an arithmetic is asked for that is not there; the message is one line."""


class Arithmetic(NamedTuple):
    """The number types and threads of a step; weights and optimiser keep the precision of the model.

    Attributes:
        bf16: matmuls and recurrent kernels take and give bfloat16.
        threads: of the processor.
        tf32: a GPU rounds the factors of float32 products to 10 bits; their sums stay float32.
    """

    bf16: bool
    threads: int
    tf32: bool = False

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let torch compute with this arithmetic as long as the context lasts."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        if self.tf32:
            allow_tf32(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            if self.tf32:
                allow_tf32(False)


def allow_tf32(allowed: bool) -> None:
    """Let a GPU use TF32, or not; as torch begins, cuDNN's recurrent kernels do, and matmuls do not."""
    # The older of torch's two ways: torch.export still asks by it, and fails where the newer one was used.
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def device_of(wanted: str) -> str:
    """Return the device that `--device` means here: under torchrun each process has a GPU of its own.

    That GPU multiplies float32 exactly from then on, unless an arithmetic says otherwise.

    Raises:
        CannotCompute: there is no such GPU.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not count):
        return "cpu"
    name, _, number = wanted.replace("auto", "cuda").partition(":")
    number = number or os.environ.get("LOCAL_RANK", "0")
    if int(number) >= count:
        raise CannotCompute(f"--device {wanted}: torch finds {count} GPUs here, not number {number}; use --device cpu")
    torch.cuda.set_device(int(number))
    allow_tf32(False)
    return f"{name}:{number}"
