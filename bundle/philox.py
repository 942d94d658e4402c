"""The random numbers that go with a decode graph: a function of (seed, position, continuation), never of a state.

Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), figure 2 and table 2.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["philox4x32", "uniforms"]

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10


def philox4x32(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Ten rounds.

    Args:
        counter: [4, ...] words of 32 bits, each in a uint64.
        key: [2, ...] words of 32 bits, each in a uint64; broadcasts against the counter.

    Returns:
        [4, ...] random words of 32 bits, each in a uint64.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (product1 >> _HALF) ^ c1 ^ k0, product1 & _LOW, (product0 >> _HALF) ^ c3 ^ k1, product0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3))


def uniforms(seed: ArrayLike, first: ArrayLike, steps: int, continuation: ArrayLike = 0) -> NDArray[np.float32]:
    """The numbers that decide the outcomes at the positions first, first + 1, ... of B texts.

    The key is the seed, the counter is (position, continuation), each as two words, low first; of the result's
    first word the upper 24 bits are taken, so every number is exact in float32.

    Args:
        seed: [B] in 0 ... 2**64 - 1.
        first: [B] position of the first outcome; the start character has position 0.
        steps: K.
        continuation: [B], which of several continuations of one prompt.

    Returns:
        [K, B] float32 in [0, 1).
    """
    seed = np.asarray(seed, np.uint64)
    position = np.asarray(first, np.uint64) + np.arange(steps, dtype=np.uint64)[:, None]
    other = np.broadcast_to(np.asarray(continuation, np.uint64), position.shape)
    counter = np.stack([position & _LOW, position >> _HALF, other & _LOW, other >> _HALF])
    words = philox4x32(counter, np.stack([seed & _LOW, seed >> _HALF]))
    numbers: NDArray[np.float32] = ((words[0] >> np.uint64(8)) * 2.0**-24).astype(np.float32)
    return numbers
