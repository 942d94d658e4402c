"""Rounds in which several cases are measured in turn, and ratios within a round: so that a noisy machine harms all."""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

__all__ = ["measure_in_turn", "median_ratio", "print_ratios", "rounds_parser"]

RESAMPLES = 10_000
T = TypeVar("T")


def rounds_parser(command: str, description: str | None, *, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """Return a parser of the flags that benchmarks of a server in rounds share, with these defaults."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{command}", description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each case (%(default)s)")
    parser.add_argument("--seconds", type=float, default=seconds, help="duration of each measurement (%(default)s)")
    return parser


def measure_in_turn(cases: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Measure each case once in each round, in an order that alternates; return its values by round."""
    values: dict[str, list[T]] = {name: [] for name in cases}
    for number in range(rounds):
        for name in list(cases)[:: 1 if number % 2 == 0 else -1]:
            values[name].append(cases[name]())
        sys.stderr.write(f"round {number + 1} of {rounds}\n")
    return values


def median_ratio(values: Sequence[float], bases: Sequence[float]) -> float:
    """Return the median of the ratios within each round; nan for a round whose base is 0."""
    return statistics.median(value / base if base else np.nan for value, base in zip(values, bases, strict=True))


def print_ratios(speeds: Mapping[str, Sequence[float]]) -> list[float]:
    """Print median speeds, and of all but the first the mean ratio to it with its 95 % interval; return these means."""
    for name, values in speeds.items():
        print(f"{name}: {statistics.median(values):,.0f} chars/s")
    (base, bases), *others = speeds.items()
    means = []
    for name, values in others:
        ratios = np.divide(values, bases)
        low, high = np.percentile(_resampled_means(ratios), (2.5, 97.5))
        means.append(float(ratios.mean()))
        print(f"{name} / {base}, {len(ratios)} rounds: {means[-1]:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    return means


def _resampled_means(ratios: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Sequence[float]:
    """Return the means of bootstrap samples."""
    means: list[float] = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios))).mean(1).tolist()
    return means
