"""Numbers on their way to a GPU, which nobody waits for."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["sent", "uploaded"]

_SHARE = 0.25  # of a GPU's free memory, for a text
_BLOCK = 1 << 26


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. A GPU copies it when it comes to it, from memory that stays where it is until then."""
    if tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def uploaded(ids: NDArray[np.integer], device: torch.device) -> Tensor | None:
    """A text's numbers on a GPU, [N] uint8 or int32; None where they would take too much of its free memory.

    None for the processor too: there they stay mapped from their file.
    """
    if device.type != "cuda":
        return None
    kind = np.dtype(np.uint8 if ids.dtype == np.uint8 else np.int32)
    if len(ids) * kind.itemsize > _SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    # In blocks: a mapped text is never in the host's memory as a whole.
    blocks = (ids[begin : begin + _BLOCK].astype(kind) for begin in range(0, len(ids), _BLOCK))
    return torch.cat([torch.from_numpy(block).to(device) for block in blocks])
