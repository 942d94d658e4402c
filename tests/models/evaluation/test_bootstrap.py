"""Intervals are as wide as what is known of the series says."""

import math

import numpy as np
import pytest

from models.evaluation.bootstrap import autocorrelation, block_length, bootstrap, hoeffding


def _autoregressive(size: int, memory: float, seed: int) -> np.ndarray:
    """x = memory x' + noise of variance 1, about 5: the variance of its mean is 1 / (size (1 - memory)^2)."""
    values = np.random.default_rng(seed).standard_normal(size)
    for place in range(1, size):
        values[place] += memory * values[place - 1]
    return values + 5


@pytest.mark.parametrize("memory", [0.0, 0.3, 0.8])
def test_the_interval_is_that_of_the_series(memory: float) -> None:
    """Of 25 series, that nearly all of the intervals hold the true mean, and that they are no wider than they must."""
    size, hits, widths = 2000, 0, []
    for seed in range(25):
        found = bootstrap(_autoregressive(size, memory, seed), seed)
        hits += found.low < 5 < found.high
        widths.append(found.high - found.low)
    expected = 2 * 1.96 / math.sqrt(size) / (1 - memory)
    assert hits >= 21
    assert np.mean(widths) == pytest.approx(expected, rel=0.15)


def test_blocks_grow_with_the_memory_and_independent_values_need_none() -> None:
    lengths = [block_length(_autoregressive(20_000, memory, 0)) for memory in (0.0, 0.3, 0.9)]
    assert lengths[0] <= 3 < lengths[1] < lengths[2]


def test_the_standard_error_is_that_of_the_series() -> None:
    found = bootstrap(_autoregressive(20_000, 0.5, 0))
    assert found.error == pytest.approx(1 / math.sqrt(20_000) / (1 - 0.5), rel=0.1)


def test_the_same_series_has_the_same_interval() -> None:
    values = _autoregressive(500, 0.3, 0)
    assert bootstrap(values) == bootstrap(values)


@pytest.mark.parametrize("size", [30, 31, 100])
def test_few_values_and_equal_ones_have_an_interval(size: int) -> None:
    few = bootstrap(_autoregressive(size, 0.9, 0))
    assert few.low < few.high
    equal = bootstrap(np.full(size, 2.5, np.float32))
    assert equal.low == pytest.approx(2.5)
    assert equal.high == pytest.approx(2.5)


def test_hoeffding_by_hand() -> None:
    """200 values of at most 4: 4 sqrt(ln 40 / 400)."""
    values = np.array([1.0, 4.0] * 100)
    assert hoeffding(values) == pytest.approx(4 * math.sqrt(math.log(40) / 400))


def test_autocorrelation_of_values_that_alternate() -> None:
    np.testing.assert_allclose(autocorrelation(np.array([1.0, -1.0] * 500), 3), [1, -1, 1, -1], atol=0.005)
