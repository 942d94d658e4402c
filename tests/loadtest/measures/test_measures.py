"""Percentiles against the truth, merging over processes, and what counts as what."""

import json
import math
import random
from collections.abc import Callable

import pytest

from loadtest.measures.distribution import RESOLUTION, Distribution
from loadtest.measures.document import run_document
from loadtest.measures.measures import Measures
from loadtest.measures.objectives import Objectives
from loadtest.measures.record import StreamRecord
from loadtest.measures.timeline import Timeline

OBJECTIVES = Objectives.parse("first:100 gap-p99:50")
SHAPES: dict[str, Callable[[random.Random], float]] = {
    "fixed": lambda chance: 12.34,
    "bimodal": lambda chance: 5.0 if chance.random() < 0.7 else 180.0,
    "a stall of 2 s": lambda chance: 2000.0 if chance.random() < 0.02 else chance.uniform(1, 3),
    "long tail": lambda chance: chance.lognormvariate(2, 1.5),
    "below the resolution": lambda chance: chance.uniform(0, 0.004),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_percentile_is_within_the_resolution_of_the_truth(name: str) -> None:
    chance = random.Random(1)
    values = sorted(SHAPES[name](chance) for _ in range(3000))
    found = Distribution()
    for value in chance.sample(values, len(values)):
        found.add(value)
    for percent in (0.1, 1, 25, 50, 75, 90, 95, 99, 99.9, 99.99, 100):
        truth = values[max(0, math.ceil(len(values) * percent / 100 - 1e-9) - 1)]
        assert found.percentile(percent) == pytest.approx(truth, rel=1e-3, abs=RESOLUTION)
    assert found.mean == pytest.approx(sum(values) / len(values))
    # A value at the limit itself may count on either side.
    limit = values[2500] + RESOLUTION
    assert found.above(limit) == pytest.approx(sum(value > limit for value in values), abs=20)


def streams(count: int) -> list[StreamRecord]:
    chance, found = random.Random(7), []
    for number in range(count):
        start, at, arrivals = number * 0.01, number * 0.01 + chance.expovariate(20), []
        for _ in range(chance.randrange(1, 12)):
            arrivals.append(at)
            at += chance.expovariate(40)
        end = chance.choices(("finished", "failed", "abandoned", "cut off"), (90, 4, 3, 3))[0]
        record = StreamRecord("text", start, start + 0.001, arrivals, 8 * len(arrivals), at, end)  # type: ignore[arg-type]
        if end == "failed":
            record.status, record.reason = "UNAVAILABLE", chance.choice(["gone", "lost"])
        found.append(record)
    return found


def measure(records: list[StreamRecord]) -> Measures:
    found = Measures(OBJECTIVES, begin=0.5, timeline=Timeline(0.0, 1.0))
    for record in records:
        found.timeline.begin_stream(record.started)
        for arrival in record.arrivals:
            found.add_message(arrival, 8)
        found.add(record)
    found.seconds = 9.5
    return found


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_merge_to_the_document_of_one(processes: int) -> None:
    records = streams(1000)
    merged = Measures(OBJECTIVES)
    for process in range(processes):
        part = measure(records[process::processes])
        merged.merge(Measures.from_json(json.loads(json.dumps(part.to_json()))))
    one, several = (run_document(found, checks={"differing": 0}) for found in (measure(records), merged))
    for document in (one, several):
        for row in document["measures"].values():
            row["distribution"]["sum"] = row["mean"] = round(row["mean"], 3)  # the order of additions
    several["errors"].sort(key=lambda error: error["reason"])
    one["errors"].sort(key=lambda error: error["reason"])
    assert several == one


def test_the_formulas_are_those_of_the_legend() -> None:
    record = StreamRecord("text", 10.0, 10.2, [10.5, 10.51, 10.53, 10.56], 31, 10.8, "finished", queue_seconds=0.004)
    found = measure([record]).distributions
    values = {name: round(each.percentile(50), 2) for name, each in found.items()}
    assert values == {
        "first": 500.0, "gap": 20.0, "gap-median": 20.0, "gap-p99": 30.0, "stall": 30.0, "per-char": 10.0,
        "whole": 800.0,
        "stream-rate": 38.75, "queue": 4.0, "lag": 200.0,
    }  # fmt: skip


def test_the_warm_up_and_what_the_end_cut_off_have_no_times_but_characters() -> None:
    early = StreamRecord("text", 0.1, 0.1, [0.6], 8, 0.7, "finished")
    cut = StreamRecord("text", 1.0, 1.0, [1.5], 8, 2.0, "cut off")
    found = measure([early, cut])
    assert not found.distributions
    assert found.counts["chars"] == 16
    assert (found.counts["finished"], found.counts["cut off"]) == (0, 1)


def test_failed_streams_are_missed_and_those_given_up_on_purpose_are_not_judged() -> None:
    good = StreamRecord("text", 1.0, 1.0, [1.05, 1.06], 16, 1.1, "finished")
    late = StreamRecord("text", 1.0, 1.0, [1.2], 8, 1.3, "finished")
    failed = StreamRecord("text", 1.0, 1.0, [], 0, 1.3, "failed")
    abandoned = StreamRecord("text", 1.0, 1.0, [1.9], 8, 2.0, "abandoned")
    assert measure([good, late, failed, abandoned]).goodput == pytest.approx(1 / 3)


def test_a_slow_readers_own_pauses_are_no_gaps() -> None:
    record = StreamRecord("slow", 1.0, 1.0, [1.05, 2.05, 3.05], 24, 3.1, "finished", is_paced=True)
    assert set(measure([record]).distributions) == {"first", "lag"}


@pytest.mark.parametrize("text", ["first", "first:", "nothing:3", "first:-1", "stream-rate:5"])
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NAME:MILLISECONDS"):
        Objectives.parse(text)
