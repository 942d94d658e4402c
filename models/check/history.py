"""What a training measured, be it a run's or a trial's."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from models.reporting.curves import RunError, read_curves

__all__ = ["Curve", "History", "history_of"]


class Curve(NamedTuple):
    """One figure over steps."""

    steps: list[int]
    values: list[float]

    def add(self, step: int, value: float) -> None:
        self.steps.append(step)
        self.values.append(value)


def _curve() -> Curve:
    return Curve([], [])


@dataclass(frozen=True)
class History:
    """Figures over steps, losses in nats.

    Attributes:
        source: what training it was, for people.
        update_ratios: |change| / |weights| of a step, by tensor, or of all weights together.
        diverged: why it ended before its end.
    """

    source: str
    loss: Curve = field(default_factory=_curve)
    validation: Curve = field(default_factory=_curve)
    gradient_norm: Curve = field(default_factory=_curve)
    update_ratios: dict[str, Curve] = field(default_factory=dict)
    diverged: str | None = None


def history_of(run: Path) -> History | None:
    """What metrics.jsonl of a run's folder has; None where it has no update ratios, as of a model from elsewhere."""
    try:
        curves = read_curves(run)
    except RunError:
        return None

    def curve(name: str) -> Curve:
        series = curves.series(name)
        return Curve(series.steps.astype(int).tolist(), series.values.tolist())

    ratios = curve("update_ratio")
    if not ratios.steps:
        return None
    source = f"{run.name}, {curves.steps:,} steps"
    return History(source, curve("loss"), curve("validation"), curve("gradient_norm"), {"all weights": ratios})
