"""The random numbers of runs; those of the next one can be made while the last one lasts."""

import numpy as np
from numpy.typing import NDArray

from bundle.philox import uniforms

__all__ = ["Draws"]

Words = NDArray[np.uint64]
Floats = NDArray[np.float32]


class Draws:
    """Numbers by (seed, position, continuation). Those made ahead are taken where all three are the same."""

    def __init__(self) -> None:
        self._by, self._ahead = np.zeros((3, 0), np.uint64), np.zeros((0, 0), np.float32)

    def ahead(self, seed: Words, first: Words, continuation: Words, steps: int) -> None:
        """As `bundle.philox.uniforms`, for later."""
        self._by, self._ahead = np.stack([seed, first, continuation]), uniforms(seed, first, steps, continuation)

    def numbers(self, seed: Words, first: Words, continuation: Words, steps: int) -> Floats:
        """As `bundle.philox.uniforms`."""
        if steps > len(self._ahead):
            return uniforms(seed, first, steps, continuation)
        by = np.stack([seed, first, continuation])
        known = min(by.shape[1], self._by.shape[1])
        missing = np.ones(by.shape[1], bool)
        missing[:known] = (by[:, :known] != self._by[:, :known]).any(axis=0)
        numbers = np.empty((steps, by.shape[1]), np.float32)
        numbers[:, :known] = self._ahead[:steps, :known]
        if missing.any():
            seed, first, continuation = by[:, missing]
            numbers[:, missing] = uniforms(seed, first, steps, continuation)
        return numbers
