"""The training curve that a bundle takes along: a run's losses, thinned to what a picture can show."""

from pathlib import Path

import numpy as np

from bundle.curve import MAX_POINTS, TrainingCurve
from models.reporting.curves import RunError, Series, read_curves

__all__ = ["training_curve"]


def training_curve(run: Path) -> TrainingCurve | None:
    """Return the losses of a run, by its folder or one of its checkpoints; None if nothing was measured there."""
    try:
        curves = read_curves(run if run.is_dir() else run.parent)
    except RunError:
        return None
    curve = TrainingCurve(training=_points(curves.series("loss")), validation=_points(curves.series("validation")))
    return curve if curve.training or curve.validation else None


def _points(series: Series) -> tuple[tuple[int, float], ...]:
    """Return at most MAX_POINTS points: means of neighbours, each at the last of their steps."""
    parts = np.array_split(np.arange(len(series)), min(len(series), MAX_POINTS)) if len(series) else []
    return tuple((int(series.steps[part[-1]]), round(float(series.values[part].mean()), 5)) for part in parts)
