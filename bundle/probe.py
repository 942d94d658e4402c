"""A fixed run by which a server sees whether it computes what was exported, and which replicas compute the same bits.

Every character is forced once, then some are sampled with temperature 1 and the row's number as seed.
"""

import numpy as np
from numpy.typing import NDArray

from bundle.philox import uniforms

__all__ = ["ROWS", "SAMPLED", "probe_inputs"]

ROWS, SAMPLED = 16, 32


def probe_inputs(vocab: int, rows: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What is forced [K, rows] and the random numbers [K, rows]; the last `SAMPLED` of the K steps are sampled.

    It begins with the character 0 as the token and a state of zeros.
    """
    every_character = np.arange(-(-vocab // rows) * rows, dtype=np.int64).reshape(-1, rows) % vocab
    forced = np.concatenate([every_character, np.full((SAMPLED, rows), -1)])
    return forced, uniforms(np.arange(rows), 1, len(forced))
