"""The outcome of a check: findings in one line each, the figures behind them, and a plot.

`check.json` holds `Report.to_json`:

    {"run": "runs/demo" | null, "model": {...}, "verdict": "ok", "seconds": 70.1, "checks": [
        {"name": "loss", "title": "...", "verdict": "ok" | "warning" | "failed",
         "findings": [{"verdict": "ok", "text": "..."}], "figures": {...}, "plot": "loss.png" | null, "seconds": 0.2}]}

The plots lie beside it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from matplotlib.figure import Figure

__all__ = ["CheckResult", "Finding", "Outcome", "Report", "Verdict", "failure", "ok", "warning", "worst"]


class Verdict(StrEnum):
    """From good to bad."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Finding(NamedTuple):
    """A verdict and its reason: a line with the figure and, unless all is well, with advice."""

    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Outcome:
    """The findings of one check.

    Args:
        figures: numbers for JSON, by name; in nats unless the name has a unit.
        draw: makes the plot; None if there is nothing to plot.
    """

    findings: tuple[Finding, ...]
    figures: dict[str, Any]
    draw: Callable[[], Figure] | None = None

    @property
    def verdict(self) -> Verdict:
        return worst(finding.verdict for finding in self.findings)


class CheckResult(NamedTuple):
    """An outcome, with the name and the title of the check."""

    name: str
    title: str
    outcome: Outcome
    seconds: float
    plot: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "verdict": self.outcome.verdict,
            "findings": [finding._asdict() for finding in self.outcome.findings],
            "figures": _as_json(self.outcome.figures),
            "plot": self.plot,
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True)
class Report:
    """The results of all checks, in order."""

    run: str | None
    model: dict[str, Any]
    checks: tuple[CheckResult, ...]

    @property
    def verdict(self) -> Verdict:
        return worst(check.outcome.verdict for check in self.checks)

    def count(self, verdict: Verdict) -> int:
        return sum(check.outcome.verdict == verdict for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "model": self.model,
            "verdict": self.verdict,
            "seconds": round(sum(check.seconds for check in self.checks), 2),
            "checks": [check.to_json() for check in self.checks],
        }


def _as_json(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _as_json(kept) for key, kept in value.items()}
    if isinstance(value, list):
        return [_as_json(kept) for kept in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def ok(text: str) -> Finding:
    return Finding(Verdict.OK, text)


def warning(text: str) -> Finding:
    return Finding(Verdict.WARNING, text)


def failure(text: str) -> Finding:
    return Finding(Verdict.FAILED, text)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    return max(verdicts, key=list(Verdict).index, default=Verdict.OK)
