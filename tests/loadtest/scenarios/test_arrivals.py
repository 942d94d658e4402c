"""Arrivals and shapes: the same with every seed, divided among processes, and as bursty as was asked for."""

import itertools
from statistics import fmean, pstdev

import pytest

from loadtest.scenarios.arrivals import Arrivals, arrival_times, share_of
from loadtest.scenarios.shapes import user_count


def first(count: int, kind: Arrivals, rate: float, burstiness: float = 1.0, seed: int = 0) -> list[float]:
    return list(itertools.islice(arrival_times(kind, rate, burstiness=burstiness, seed=seed), count))


@pytest.mark.parametrize(
    ("kind", "burstiness", "variation"),
    [("constant", 1.0, 0.0), ("poisson", 1.0, 1.0), ("gamma", 1.0, 1.0), ("gamma", 0.25, 2.0), ("gamma", 4.0, 0.5)],
)
def test_rate_and_burstiness_are_those_asked_for(kind: Arrivals, burstiness: float, variation: float) -> None:
    times = first(40_000, kind, 50, burstiness)
    gaps = [b - a for a, b in itertools.pairwise([0.0, *times])]
    assert fmean(gaps) == pytest.approx(1 / 50, rel=0.03)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(variation, rel=0.05, abs=1e-6)


def test_equal_seeds_are_equal_loads() -> None:
    assert first(100, "poisson", 9, seed=3) == first(100, "poisson", 9, seed=3) != first(100, "poisson", 9, seed=4)


def test_processes_divide_the_arrivals_among_them() -> None:
    times = first(100, "gamma", 10, 0.5)
    shares = [list(share_of(iter(times), index, 3)) for index in range(3)]
    assert sorted(itertools.chain(*shares)) == list(enumerate(times))


def test_a_ramp_goes_up_in_steps_and_a_spike_is_in_the_middle() -> None:
    ramp = [user_count("ramp", 50, 100, at) for at in range(100)]
    assert ramp == sorted(ramp)
    assert (ramp[0], ramp[-1], len(set(ramp))) == (5, 50, 10)
    spike = [user_count("spike", 40, 90, at) for at in range(90)]
    assert spike == [10] * 30 + [40] * 30 + [10] * 30
    assert user_count("ramp", 1, 10, 0) == user_count("spike", 1, 10, 0) == 1
