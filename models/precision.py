"""What the numbers of a training step are computed with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch

__all__ = ["Arithmetic", "set_products"]

Products = Literal["ieee", "tf32"]


class Arithmetic(NamedTuple):
    """What the numbers of a step are computed with; weights and optimiser keep the precision of the model.

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
        """Within, torch computes so."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        if self.tf32:
            set_products("tf32")
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            if self.tf32:
                set_products("ieee")


def set_products(kind: Products) -> None:
    """How a GPU multiplies float32; as torch begins, cuDNN's recurrent kernels have TF32, and matmuls have not."""
    torch.backends.cuda.matmul.fp32_precision = kind
    torch.backends.cudnn.rnn.fp32_precision = kind  # type: ignore[attr-defined]
