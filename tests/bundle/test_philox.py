"""The random numbers are the published generator's, whatever the chunking."""

import numpy as np
import pytest

from bundle.philox import philox4x32, uniforms

# Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, result.
PUBLISHED = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def _words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], np.uint32)


@pytest.mark.parametrize(("counter", "key", "result"), PUBLISHED)
def test_published_vectors(counter: str, key: str, result: str) -> None:
    assert [int(word) for word in philox4x32(_words(counter), _words(key))] == _words(result).tolist()


def test_any_split_of_the_positions_gives_the_same_numbers() -> None:
    seeds = np.array([0, 7, 2**64 - 1], np.uint64)
    whole = uniforms(seeds, [1, 2**32 - 4, 5], 9)
    parts = np.concatenate([uniforms(seeds, [1, 2**32 - 4, 5], 4), uniforms(seeds, [5, 2**32, 9], 5)])
    assert (whole == parts).all()
    assert whole.shape == (9, 3)


def test_range_and_independence() -> None:
    numbers = uniforms(np.arange(1000), 1, 200)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.005
    assert (uniforms(3, 1, 50) != uniforms(3, 1, 50, continuation=1)).all()
