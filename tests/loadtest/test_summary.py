"""A run's verdict and its table, from figures alone."""

from typing import Any

import pytest

from loadtest.measures.document import run_document
from loadtest.measures.measures import Measures
from loadtest.measures.objectives import Objectives
from loadtest.measures.record import StreamRecord
from loadtest.settings import Thresholds
from loadtest.summary import missed_thresholds, table


def run(*, finished: int = 100, failed: int = 2, differing: int = 0) -> dict[str, Any]:
    """A run of 10 s: first characters after 12 ms, gaps of 20 ms but one of 30, 500 characters a text."""
    measures = Measures(Objectives.parse("first:100"))
    measures.seconds = 10.0
    for number in range(finished + failed):
        arrivals = [0.012, 0.032, 0.062]
        record = StreamRecord("text", 0.0, 0.0, arrivals, 500, 0.4, "finished" if number < finished else "failed")
        for arrival in arrivals[1:]:
            measures.add_message(arrival, 250)
        if record.end == "failed":
            record.status, record.reason = "RESOURCE_EXHAUSTED", "Overloaded: try later"
        measures.add(record)
    measures.add(StreamRecord("text", 0.0, 0.0, [0.5], 1, 1.0, "cut off"))
    lines = ["expected 'a', received 'b'"] if differing else []
    checks = {"checked": 50, "alone": 3, "differing": differing, "differences": lines}
    return run_document(measures, checks=checks, notes=["the load generator is near its limit"])


RUN = run()


def test_a_run_that_keeps_every_limit_misses_none() -> None:
    limits = Thresholds(
        max_first_char_p99=12.01,
        max_gap_p99=30.1,
        min_chars_per_second=5000,
        max_failures=2,
        require=("first.p99<=12.1", "goodput>0.98", "failed < 3", "gap.max<31"),
    )
    assert missed_thresholds(RUN, limits) == []


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        ({"max_first_char_p99": 11.9}, "--max-first-char-p99: 12 ms"),
        ({"max_gap_p99": 29.9}, "--max-gap-p99: 30 ms"),
        ({"min_chars_per_second": 5101}, "--min-chars-per-second: 5,100"),
        ({"max_failures": 1}, "--max-failures: 2"),
        ({"require": ("first.p99<10",)}, "--require first.p99<10: it is 12"),
        ({"require": ("goodput>0.99",)}, "--require goodput>0.99: it is 0.98"),
        ({"require": ("queue.p50<10",)}, "--require queue.p50<10: the run has no such figure"),
    ],
)
def test_a_missed_limit_is_named_with_what_was_measured(limits: dict[str, Any], line: str) -> None:
    (found,) = missed_thresholds(RUN, Thresholds(**{"max_failures": 2, **limits}))
    assert found.startswith(line)


@pytest.mark.parametrize("text", ["first.p99", "first.p98<1", "nothing<1", "goodput>much"])
def test_a_limit_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NAME one of goodput"):
        Thresholds(require=(text,))


def test_by_default_no_stream_may_fail_and_no_text_may_be_wrong() -> None:
    assert len(missed_thresholds(RUN, Thresholds())) == 1
    (line,) = missed_thresholds(run(failed=0, differing=1), Thresholds())
    assert "expected 'a', received 'b'" in line


def test_a_run_without_a_finished_stream_never_passes() -> None:
    assert missed_thresholds(run(finished=0, failed=0), Thresholds(max_first_char_p99=1)) == ["no stream finished"]


def test_the_table_has_the_figures_that_people_ask_for() -> None:
    text = table(RUN)
    assert text.startswith("note        the load generator is near its limit\n")
    for figure in ("100 finished", "2 failed", "1 cut off", "5,100 chars/s", "12.00", "30.00", "Overloaded", "98.04%"):
        assert figure in text
    assert "50 were asked for again, 3 of them recorded alone: all the same" in text
