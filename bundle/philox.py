"""The random numbers of a decode graph: a function of (seed, position, continuation), without any state.

Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), figure 2 and table 2.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["philox4x32", "uniforms"]

Words = NDArray[np.uint32]
_M, _W = np.array([0xD2511F53, 0xCD9E8D57], np.uint32), np.array([0x9E3779B9, 0xBB67AE85], np.uint32)
_ROUNDS = 10
_PRODUCT = np.dtype([("low", "<u4"), ("high", "<u4")])  # of a little-endian uint64


def philox4x32(counter: Sequence[Words], key: Sequence[Words]) -> Sequence[Words]:
    """Return four random words after ten rounds, each of the shape that all arguments broadcast to.

    Args:
        counter: four words.
        key: two words.
    """
    # Words 0 and 2 are multiplied, 1 and 3 are not. Few calls, because each one for a large array may hand the
    # interpreter to another thread; and little memory, because it takes longer to allocate than to fill.
    c0, c1, c2, c3, *_ = np.broadcast_arrays(*counter, *key)
    even, odd = np.stack([c0, c2]), np.stack([c1, c3])
    keys = np.stack(np.broadcast_arrays(*key))
    keys = keys.reshape(2, *[1] * (even.ndim - keys.ndim), *keys.shape[1:])
    products = [np.empty(even.shape, "<u8") for _ in range(2)]
    multiplier, weyl = (constants.reshape(2, *[1] * (even.ndim - 1)) for constants in (_M, _W))
    for number in range(_ROUNDS):
        product = products[number % 2]
        np.multiply(even, multiplier, out=product, dtype=np.uint64)
        halves = product.view(_PRODUCT)[::-1]
        np.bitwise_xor(halves["high"], odd, out=even)
        even ^= keys
        odd, keys = halves["low"], keys + weyl
    return even[0], odd[0], even[1], odd[1]


def uniforms(seed: ArrayLike, first: ArrayLike, steps: int, continuation: ArrayLike = 0) -> NDArray[np.float32]:
    """Return the numbers that decide the outcomes at the positions first, first + 1, ... of B texts.

    The key is the seed, the counter is (position, continuation), each as two words, low first. A number is the upper
    24 bits of the result's first word, so it is exact in float32.

    Args:
        seed: [B] in 0 ... 2**64 - 1.
        first: [B] position of the first outcome; the start character has position 0.
        steps: K.
        continuation: [B] index among the continuations of one prompt.

    Returns:
        [K, B] float32 in [0, 1).
    """
    position = np.asarray(first, np.uint64) + np.arange(steps, dtype=np.uint64)[:, None]
    counter = *_words(position), *_words(np.asarray(continuation, np.uint64))
    word, *_ = philox4x32(counter, _words(np.asarray(seed, np.uint64)))
    numbers: NDArray[np.float32] = (word >> np.uint32(8)).astype(np.float32)
    numbers *= np.float32(2.0**-24)
    return numbers


def _words(numbers: NDArray[np.uint64]) -> tuple[Words, Words]:
    return numbers.astype(np.uint32), (numbers >> np.uint64(32)).astype(np.uint32)
