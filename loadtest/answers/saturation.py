"""When a load is too much: series that grow without end, and the knee of a curve. No network."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.measures.gates import figure

__all__ = ["is_past_the_peak", "is_saturated", "knee", "slope"]

SURE = 2.0  # standard errors
LEAST_POINTS = 5
GAIN = 0.03  # a doubling of the load that brings less has brought nothing


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the slope of a line through the points by least squares, and its standard error."""
    count = len(points)
    if count < 3:
        return 0.0, math.inf
    middle_x, middle_y = (sum(values) / count for values in zip(*points, strict=True))
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    found = sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0
    rest = sum((y - middle_y - found * (x - middle_x)) ** 2 for x, y in points)
    return found, math.sqrt(rest / (count - 2) / spread) if spread else math.inf


def is_saturated(series: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether streams in flight and times to first character both grew, beyond their errors, through the second
    half of a run: more comes than is done."""
    half = series[len(series) // 2 : -1]  # the last interval is not whole
    if len(half) < LEAST_POINTS:
        return False
    for name in ("streams", "first_p50"):
        found, error = slope([(row["at"], row[name]) for row in half if row[name] is not None])
        if not found > SURE * error:
            return False
    return True


def is_past_the_peak(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the last two loads of a closed loop each brought nothing more."""
    rates = [run["figures"]["chars-per-second"] for run in runs]
    return len(rates) >= 3 and max(rates[-2:]) < (1 + GAIN) * rates[-3]


def knee(runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the run with the largest power, characters a second divided by the median time of a whole call. Beyond it
    latency grows by more than throughput does. L. Kleinrock, 1979."""

    def power(run: Mapping[str, Any]) -> float:
        whole = figure(run, "whole.p50")
        return float(run["figures"]["chars-per-second"]) / whole if whole else 0.0

    return max(runs, key=power)
