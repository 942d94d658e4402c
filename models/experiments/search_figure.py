"""A figure of a search: the losses in the order of the trials, and against each option."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from models.experiments.space import Dimension, Interval
from models.reporting.style import COLOURS, figure, legend

__all__ = ["search_figure"]

_DECADES = 1e3  # ratio of an interval's ends below which powers of ten alone would be too few numbers
_SHOWN = 0.8  # share of the losses that is drawn to scale; the worst stand at the upper edge


def search_figure(trials: Sequence[FrozenTrial], space: Sequence[Dimension], unit: str) -> Figure:
    """Draw the validation loss against the trial's number, and against each option of the space."""
    panels = 1 + len(space)
    columns = 2 if panels in (2, 4) else 3
    rows = -(-panels // columns)
    fig, axes = figure(rows, columns, size=(0.4 + 3.8 * columns, 0.4 + 3.3 * rows))
    known = [trial for trial in trials if trial.value is not None]
    if known:
        top = _top(known)
        _history(axes[0], known, top)
        for place, one in zip(axes[1:], space, strict=False):
            _slice(place, known, one, top)
        legend(axes[0])
    for i, place in enumerate(axes):
        place.set_visible(i < panels)
        place.set_ylabel(f"validation loss (nats per {unit})" if i % columns == 0 else "")
    return fig


def _history(axes: Axes, trials: Sequence[FrozenTrial], top: float) -> None:
    _points(axes, trials, np.array([trial.number for trial in trials], np.float64), top)
    done = sorted((trial.number, trial.value) for trial in trials if trial.state is TrialState.COMPLETE)
    if done:
        numbers, losses = zip(*done, strict=True)
        best = np.minimum.accumulate(losses)
        axes.plot(numbers, best.clip(max=top), drawstyle="steps-post", color=COLOURS[1], lw=1.4, label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")


def _slice(axes: Axes, trials: Sequence[FrozenTrial], one: Dimension, top: float) -> None:
    values = [trial.params[one.name] for trial in trials]
    if isinstance(one, Interval):
        _points(axes, trials, np.array(values, np.float64), top)
        if one.log:
            _logarithmic(axes, one)
    else:
        _points(axes, trials, np.array([one.values.index(value) for value in values], np.float64), top)
        axes.set_xticks(range(len(one.values)), [str(value) for value in one.values])
        axes.set_xlim(-0.5, len(one.values) - 0.5)
    axes.set_xlabel(one.name.replace("_", " "))


def _logarithmic(axes: Axes, one: Interval) -> None:
    """Show the whole interval, a decade or more, with numbers that do not overlap."""
    axes.set_xscale("log")
    margin = (one.high / one.low) ** 0.05
    axes.set_xlim(one.low / margin, one.high * margin)
    if one.high < _DECADES * one.low:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _points(axes: Axes, trials: Sequence[FrozenTrial], x: NDArray[np.float64], top: float) -> None:
    losses = np.array([trial.value for trial in trials], np.float64)
    complete = np.array([trial.state is TrialState.COMPLETE for trial in trials])
    below = losses <= top
    best = int(np.argmin(np.where(complete, losses, np.inf)))
    filled, hollow = {"color": COLOURS[0]}, {"facecolors": "none", "edgecolors": "#7F7F7F"}
    kinds: tuple[tuple[NDArray[np.bool_], dict[str, Any]], ...] = (
        (complete & below, {"marker": "o", "label": "to the end", **filled}),
        (~complete & below, {"marker": "o", "label": "given up", **hollow}),
        (complete & ~below, {"marker": "^", "label": "to the end, worse than shown", **filled}),
        (~complete & ~below, {"marker": "^", "label": "given up, worse than shown", **hollow}),
    )
    for some, look in kinds:
        if some.any():
            axes.scatter(x[some], losses[some].clip(max=top), s=24, **look)
    if complete.any():
        axes.scatter(x[best], losses[best], s=110, marker="*", color=COLOURS[1], zorder=3, label="best")
    margin = 0.06 * (top - losses.min()) or 0.01
    axes.set_ylim(losses.min() - margin, top + margin)


def _top(trials: Sequence[FrozenTrial]) -> float:
    """Return the largest loss that is drawn to scale, of the trials that were trained to the end, if there are any."""
    complete = [trial.value for trial in trials if trial.state is TrialState.COMPLETE]
    values = np.array(complete or [trial.value for trial in trials], np.float64)
    return float(np.quantile(values, _SHOWN)) if len(values) > 4 else float(values.max())
