"""A run's verdict and its table, from figures alone."""

from dataclasses import replace

import pytest

from loadtest.settings import Thresholds
from loadtest.summary import Spread, Summary, missed_thresholds, table

SUMMARY = Summary(
    seconds=10.0,
    chars=50_000,
    finished=100,
    failed=2,
    cut_off=8,
    errors={"Overloaded: try later": 2},
    first_char=Spread(5.0, 12.0, 20.0),
    gap_median=Spread(20.0, 21.0, 22.0),
    gap_p99=Spread(22.0, 30.0, 1234.0),
    total=Spread(400.0, 500.0, 600.0),
)


def test_a_run_that_keeps_every_threshold_misses_none() -> None:
    limits = Thresholds(max_first_char_p99=12, max_gap_p99=30, min_chars_per_second=5000, max_failures=2)
    assert missed_thresholds(SUMMARY, limits) == []


@pytest.mark.parametrize(
    ("limits", "flag"),
    [
        ({"max_first_char_p99": 11.9}, "--max-first-char-p99: 12 ms"),
        ({"max_gap_p99": 29.9}, "--max-gap-p99: 30 ms"),
        ({"min_chars_per_second": 5001}, "--min-chars-per-second: 5,000"),
        ({"max_failures": 1}, "--max-failures: 2"),
    ],
)
def test_a_missed_threshold_is_named_with_what_was_measured(limits: dict[str, float], flag: str) -> None:
    (line,) = missed_thresholds(SUMMARY, Thresholds(**{"max_failures": 2, **limits}))  # type: ignore[arg-type]
    assert line.startswith(flag)


def test_by_default_no_stream_may_fail() -> None:
    assert len(missed_thresholds(SUMMARY, Thresholds())) == 1


def test_a_run_without_a_finished_stream_never_passes() -> None:
    nothing = Spread(0, 0, 0)
    idle = replace(SUMMARY, finished=0, failed=0, first_char=nothing, gap_p99=nothing)
    assert missed_thresholds(idle, Thresholds(max_first_char_p99=1)) == ["no stream finished"]


def test_the_table_has_the_figures_that_people_ask_for() -> None:
    text = table(SUMMARY)
    for figure in ("100 finished", "2 failed", "8 cut off", "5,000 chars/s", "12.00", "30.00", "1234", "Overloaded"):
        assert figure in text
