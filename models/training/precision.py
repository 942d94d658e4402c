"""What the numbers of a training step are computed with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

__all__ = ["Arithmetic", "allow_tf32"]


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
            allow_tf32(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            if self.tf32:
                allow_tf32(False)


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU may multiply float32 so; as torch begins, cuDNN's recurrent kernels do, and matmuls do not."""
    # The older of torch's two ways: torch.export still asks by it, and fails where the newer one was used.
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
