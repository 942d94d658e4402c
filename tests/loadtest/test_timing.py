"""Percentiles of a few values, and Locust's rounding."""

import pytest

from loadtest.timing import bucket, percentile


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(1, 0.99, 1), (100, 0.99, 99), (101, 0.99, 100), (4, 0.5, 2)]
)
def test_percentiles_are_of_the_nearest_rank(count: int, fraction: float, expected: int) -> None:
    assert percentile(list(range(count, 0, -1)), fraction) == expected


def test_short_times_keep_three_digits_and_are_never_beyond_the_longest() -> None:
    times = (0.0, 0.01234, 3.4567, 45.46, 99.96, 999.9, 1239.0, 12.0)
    assert [bucket(ms) for ms in times] == [0.0, 0.0123, 3.45, 45.4, 99.9, 999.0, 1230.0, 12.0]
