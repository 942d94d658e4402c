"""What a check comes to: findings in one line each, the figures behind them, and a plot.

`Report.to_json` is what `check.json` holds:

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

__all__ = ["REPORT", "Checked", "Finding", "Outcome", "Report", "Verdict", "failed", "ok", "warning", "worst"]

REPORT = "check.json"


class Verdict(StrEnum):
    """In the order of how bad they are."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Finding(NamedTuple):
    """A verdict and its reason: a line with the figure and, unless all is well, with what to do."""

    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Outcome:
    """What one check found.

    Args:
        figures: numbers by name, as JSON takes them; without units in the name: nats.
        draw: makes the plot; None where there is nothing to look at.
    """

    findings: tuple[Finding, ...]
    figures: dict[str, Any]
    draw: Callable[[], Figure] | None = None

    @property
    def verdict(self) -> Verdict:
        return worst(finding.verdict for finding in self.findings)


class Checked(NamedTuple):
    """An outcome, and the check it is of."""

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
    """All that was checked, in order."""

    run: str | None
    model: dict[str, Any]
    checks: tuple[Checked, ...]

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
    """JSON has no number that is none."""
    if isinstance(value, dict):
        return {key: _as_json(kept) for key, kept in value.items()}
    if isinstance(value, list):
        return [_as_json(kept) for kept in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def ok(text: str) -> Finding:
    return Finding(Verdict.OK, text)


def warning(text: str) -> Finding:
    return Finding(Verdict.WARNING, text)


def failed(text: str) -> Finding:
    return Finding(Verdict.FAILED, text)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    return max(verdicts, key=list(Verdict).index, default=Verdict.OK)
