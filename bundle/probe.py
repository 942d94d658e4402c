"""The fixed run that shows whether a server computes what was exported, and which replicas compute the same bits.

Every character is forced once; then `SAMPLED` steps are sampled with temperature 1, with the row's index as seed.
"""

import numpy as np
from numpy.typing import NDArray

from bundle.philox import uniforms

__all__ = ["ROWS", "SAMPLED", "probe_inputs"]

ROWS, SAMPLED = 16, 32


def probe_inputs(vocab: int, rows: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the forced tokens [K, rows], -1 in the last `SAMPLED` steps, and the random numbers [K, rows].

    The run starts from token 0 and a hidden state of zeros.
    """
    every_character = np.arange(-(-vocab // rows) * rows, dtype=np.int64).reshape(-1, rows) % vocab
    forced = np.concatenate([every_character, np.full((SAMPLED, rows), -1)])
    return forced, uniforms(np.arange(rows), 1, len(forced))
