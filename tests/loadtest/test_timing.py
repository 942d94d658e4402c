"""The measures that are computed from the times of chunks."""

import pytest

from loadtest.timing import StreamTiming, bucket, percentile


def test_gaps_and_first_character_are_in_milliseconds() -> None:
    timing = StreamTiming(10.0, [10.5, 10.51, 10.53, 10.56])
    assert timing.first_char_ms == pytest.approx(500)
    assert timing.gaps_ms == pytest.approx([10, 20, 30])
    assert timing.gap_median_ms == pytest.approx(20)
    assert timing.gap_p99_ms == pytest.approx(30)


@pytest.mark.parametrize("arrivals", [[], [1.5]])
def test_a_text_of_one_chunk_has_no_gap(arrivals: list[float]) -> None:
    timing = StreamTiming(1.0, arrivals)
    assert timing.gap_median_ms is None
    assert timing.gap_p99_ms is None
    assert (timing.first_char_ms is None) == (not arrivals)


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(1, 0.99, 1), (100, 0.99, 99), (101, 0.99, 100), (4, 0.5, 2)]
)
def test_percentiles_are_of_the_nearest_rank(count: int, fraction: float, expected: int) -> None:
    assert percentile(list(range(count, 0, -1)), fraction) == expected


def test_short_times_keep_three_digits_and_are_never_beyond_the_longest() -> None:
    times = (0.0, 0.01234, 3.4567, 45.46, 99.96, 999.9, 1239.0, 12.0)
    assert [bucket(ms) for ms in times] == [0.0, 0.0123, 3.45, 45.4, 99.9, 999.0, 1230.0, 12.0]
