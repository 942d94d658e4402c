"""Figures of a run by name, and limits that they must keep to."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.measures.record import MEASURES

__all__ = ["SCALARS", "STATISTICS", "Gate", "figure"]

# A run's document, and the names in it: loadtest/measures/document.py.
Run = Mapping[str, Any]

STATISTICS = ("mean", "p50", "p90", "p99", "p99.9", "max")
SCALARS = (
    "goodput",
    "good-per-second",
    "chars-per-second",
    "messages-per-second",
    "streams-per-second",
    "finished",
    "failed",
    "failed-share",
    "unsent",
    "differing",
)
OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


def figure(run: Run, name: str) -> float | None:
    """Return a figure of a run by its name; None if the run has none, as a goodput without objectives."""
    measure, _, statistic = name.partition(".")
    value = run["figures"][name] if name in SCALARS else run["measures"].get(measure, {}).get(statistic)
    return None if value is None else float(value)


@dataclass(frozen=True)
class Gate:
    """A limit, such as first.p99<100."""

    name: str
    relation: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """Raises ValueError: it is no limit, or of no figure."""
        found = re.fullmatch(r"\s*([\w.-]+?)\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)\s*", text)
        measure, _, statistic = found[1].partition(".") if found else ("", "", "")
        if not found or not (found[1] in SCALARS or (measure in MEASURES and statistic in STATISTICS)):
            raise ValueError(
                f"--require {text!r}: NAME<NUMBER or NAME>NUMBER is expected, NAME one of {', '.join(SCALARS)}, or "
                f"MEASURE.STATISTIC of {', '.join(MEASURES)} and {', '.join(STATISTICS)}"
            )
        return cls(found[1], found[2], float(found[3]))

    def complaint(self, run: Run) -> str | None:
        """Return a line if the run misses the limit, or has no such figure; None if it keeps it."""
        value = figure(run, self.name)
        if value is None:
            return f"--require {self}: the run has no such figure"
        return None if OPERATORS[self.relation](value, self.limit) else f"--require {self}: it is {value:,.5g}"

    def __str__(self) -> str:
        return f"{self.name}{self.relation}{self.limit:g}"
