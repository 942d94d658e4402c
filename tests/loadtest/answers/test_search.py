"""The search for a capacity, against a simulated server whose capacity is known."""

from typing import Any

import numpy as np
import pytest

from loadtest.answers.bench import Bench
from loadtest.answers.quick import range_of
from loadtest.answers.search import Objective, Search, judge
from loadtest.measures.document import run_document
from loadtest.measures.measures import Measures
from loadtest.measures.objectives import Objectives
from loadtest.measures.record import StreamRecord
from loadtest.settings import LoadtestSettings

LIMIT = Objective("first", 99, 100.0)
SPREAD = 0.5  # of the logarithm of a latency
P99 = 2.326  # of a normal distribution


class SimulatedBench(Bench):
    """First characters are log-normal; their median rises as in a queue, and p99 is 100 ms at the capacity."""

    def __init__(self, capacity: float, seed: int, settings: LoadtestSettings) -> None:
        super().__init__(settings)
        self._capacity, self._chance = capacity, np.random.default_rng(seed)

    def run(self, load: float, seconds: float) -> dict[str, Any]:
        busy, full = load / (1.25 * self._capacity), 1 / 1.25
        median = 100 / 2.718281828 ** (P99 * SPREAD) * (1 - full) / max(1 - busy, 0.01)
        measures = Measures(Objectives())
        measures.seconds = seconds
        count = max(1, round(2 * load * seconds))
        first = median * self._chance.lognormal(0, SPREAD, count)
        for ms, times in zip(*np.unique(first.round(1), return_counts=True), strict=True):
            measures.distributions["first"].add(float(ms), int(times))
        measures.counts["finished"] = count
        run = run_document(measures, checks={}, load=load)
        self.runs.append(run)
        return run


@pytest.mark.parametrize("capacity", [137])
def test_the_capacity_of_a_simulated_server_is_found_to_5_percent_with_every_seed(capacity: int) -> None:
    found = []
    for seed in range(20):
        bench = SimulatedBench(capacity, seed, LoadtestSettings())
        found.append(Search(lambda load, anew: bench.is_kept(load, [LIMIT], anew=anew), most=4096).run())  # noqa: B023
    assert [round(each / capacity, 3) for each in found if not 0.95 <= each / capacity <= 1.05] == []


def test_a_rate_is_found_between_whole_numbers() -> None:
    bench = SimulatedBench(0.7, 1, LoadtestSettings(scenario="open", rate=3.0))
    rate = Search(lambda load, anew: bench.is_kept(load, [LIMIT], anew=anew), first=3.0, whole=False).run()
    assert rate == pytest.approx(0.7, rel=0.25)  # 1.4 texts a second are few in a minute


def test_where_nothing_is_kept_the_capacity_is_zero_and_where_all_is_the_most() -> None:
    assert Search(lambda load, anew: False, first=8).run() == 0
    assert Search(lambda load, anew: True, most=100).run() == 100


def test_a_result_that_does_not_repeat_is_lowered() -> None:
    tried: list[float] = []

    def is_kept(load: float, anew: bool) -> bool:
        tried.append(load)
        return load <= 64 and (not anew or load <= 60)

    assert Search(is_kept, most=1024).run() in (59, 60)
    assert tried.count(64) == 2


@pytest.mark.parametrize("carried", [0, 1, 20, 50, 63])
def test_a_result_is_a_load_that_was_measured_twice_and_kept(carried: int) -> None:
    """However much less is kept the second time: a figure that nobody measured is no answer."""
    kept = {0.0}

    def is_kept(load: float, anew: bool) -> bool:
        is_held = load <= (carried if anew else 64)
        if anew and is_held:
            kept.add(load)
        return is_held

    found = Search(is_kept, most=1024).run()
    assert found in kept
    assert found >= carried / 1.1 - 1


def run_of(good: int, bad: int, failed: int = 0) -> dict[str, Any]:
    measures = Measures(Objectives())
    for ms in [90.0] * good + [200.0] * bad:
        measures.add(StreamRecord("text", 0.0, 0.0, [ms / 1000], 1, 1.0, "finished"))
    for _ in range(failed):
        measures.add(StreamRecord("text", 0.0, 0.0, [], 0, 1.0, "failed"))
    return run_document(measures, checks={})


@pytest.mark.parametrize(
    ("run", "verdict"),
    [
        (run_of(1000, 0), "kept"),
        (run_of(100, 0), "open"),  # 0 of 100 may still be 3 %
        (run_of(100, 10), "missed"),
        (run_of(1000, 10), "kept"),  # as many as may be, after enough streams
        (run_of(100, 0, failed=10), "missed"),
        (run_of(0, 0, failed=3), "missed"),
    ],
)
def test_a_load_is_judged_by_the_share_of_streams_beyond_the_limit(run: dict[str, Any], verdict: str) -> None:
    assert judge([run], LIMIT, 1000).verdict == verdict


def test_what_is_carried_is_said_in_plain_words() -> None:
    said = [range_of(*found) for found in ((0, 1), (1, 2), (4, 8), (4096, None))]
    assert said == ["not one user", "about 1 user", "between 4 and 8 users", "at least 4,096 users"]
