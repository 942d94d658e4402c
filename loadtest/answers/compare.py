"""`charstream loadtest compare`: is the second result better than the first?"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance
from typing import Annotated, Any, Literal

from pydantic import Field

from charstream.settings import Positional, Settings, fail, parse
from loadtest.measures.document import read_document
from loadtest.measures.gates import SCALARS, STATISTICS, figure
from loadtest.measures.record import MEASURES

__all__ = ["CompareSettings", "Comparison", "compare_figures", "main"]

COMMAND = "charstream loadtest compare"
# By default; with whether more is better.
FIGURES = ("chars-per-second", "first.p50", "first.p99", "gap.p50", "gap.p99", "whole.p50", "goodput")
MORE_IS_BETTER = {
    "goodput",
    "good-per-second",
    "chars-per-second",
    "messages-per-second",
    "streams-per-second",
    "finished",
}
# Two-sided 95 % of Student's t, by degrees of freedom from 1 on; beyond the table the normal distribution's.
T95 = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.20,
    2.18,
    2.16,
    2.14,
    2.13,
    2.12,
    2.11,
    2.10,
    2.09,
)
T95_BEYOND = 1.96

Verdict = Literal["better", "worse", "undecided"]


class CompareSettings(Settings):
    """Compares two results that `--result` wrote, each of several runs (--repeats): for each figure the ratio of B to A
    with its 95 % interval, and whether B is better, worse, or undecided. Exit code 1 if any figure is worse."""

    a: Annotated[Path, Positional()] = Field(description="the result that is compared with")
    b: Annotated[Path, Positional()] = Field(description="the result that is judged")
    figure: tuple[str, ...] = Field(FIGURES, description="a figure to compare, as in --require")


@dataclass(frozen=True)
class Comparison:
    """The ratio of two figures, B to A, with its interval; `low` and `high` are nan where there are too few runs."""

    ratio: float
    low: float
    high: float
    verdict: Verdict


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(CompareSettings, argv, command=COMMAND)
    try:
        first, second = (read_document(file)["runs"] for file in (settings.a, settings.b))
        for name in settings.figure:
            _check_name(name)
    except ValueError as error:
        fail(COMMAND, str(error))
    print(f"{'':20}{'A':>12}{'B':>12}{'B / A':>9}  95 % interval    B is   ({len(first)} and {len(second)} runs)")
    verdicts = []
    for name in settings.figure:
        values = [_values(runs, name) for runs in (first, second)]
        if all(values):
            found = compare_figures(*values, more_is_better=_more_is_better(name))
            verdicts.append(found.verdict)
            print(_row(name, values, found))
    if not verdicts:
        fail(COMMAND, "the results have none of the figures in common")
    if len(first) < 2 or len(second) < 2:
        print(f"{COMMAND}: an interval needs two runs and more on both sides: --repeats 5", file=sys.stderr)
    return 1 if "worse" in verdicts else 0


def compare_figures(first: Sequence[float], second: Sequence[float], *, more_is_better: bool) -> Comparison:
    """Compare the means of logarithms (the ratio of geometric means) by Welch's t interval."""
    if min(*first, *second) <= 0:
        ratio = fmean(second) / fmean(first) if fmean(first) > 0 else math.nan
        return Comparison(ratio, math.nan, math.nan, "undecided")
    logs = [[math.log(value) for value in values] for values in (first, second)]
    difference = fmean(logs[1]) - fmean(logs[0])
    if min(map(len, logs)) < 2:
        return Comparison(math.exp(difference), math.nan, math.nan, "undecided")
    errors = [variance(values) / len(values) for values in logs]
    half = _t95(logs, errors) * math.sqrt(sum(errors))
    low, high = difference - half, difference + half
    verdict: Verdict = "undecided"
    if low > 0 or high < 0:
        verdict = "better" if (low > 0) == more_is_better else "worse"
    return Comparison(math.exp(difference), math.exp(low), math.exp(high), verdict)


def _t95(logs: Sequence[Sequence[float]], errors: Sequence[float]) -> float:
    """Return Student's t for Welch's degrees of freedom."""
    below = sum(error**2 / (len(values) - 1) for values, error in zip(logs, errors, strict=True))
    degrees = sum(errors) ** 2 / below if below else len(T95) + 1
    return T95[max(0, int(degrees) - 1)] if degrees < len(T95) + 1 else T95_BEYOND


def _check_name(name: str) -> None:
    measure, _, statistic = name.partition(".")
    if name not in SCALARS and not (measure in MEASURES and statistic in STATISTICS):
        raise ValueError(
            f"--figure {name}: is none; there are {', '.join(SCALARS)}, and MEASURE.STATISTIC of {', '.join(MEASURES)} "
            f"and {', '.join(STATISTICS)}"
        )


def _more_is_better(name: str) -> bool:
    measure = name.partition(".")[0]
    return name in MORE_IS_BETTER if name in SCALARS else not MEASURES[measure].is_better_low


def _values(runs: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [value for run in runs if (value := figure(run, name)) is not None]


def _row(name: str, values: Sequence[Sequence[float]], found: Comparison) -> str:
    means = "".join(f"{fmean(each):>12,.4g}" for each in values)
    interval = "too few runs" if math.isnan(found.low) else f"{found.low:.3f} to {found.high:.3f}"
    return f"{name:20}{means}{found.ratio:>9.3f}  {interval:17}{found.verdict}"


if __name__ == "__main__":
    sys.exit(main())
