"""A figure of the loss curves of one run or several, with the learning rate and the gradient's norm below."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from numpy.typing import ArrayLike

from models.reporting.curves import Axis, RunCurves, RunError, Series, axis_label, common_unit, smooth
from models.reporting.style import COLOURS, as_label, figure, legend

__all__ = ["curve_figure"]

_DASHES = ("-", "--", ":")  # tell runs of one colour apart
_LINE = 3  # points that a line needs
_FAR_APART = 20  # ratio of the largest to the smallest value from which on an axis is logarithmic
_BEGINNING = 0.03  # share of the longest run whose losses, which fall steeply, are left out of the y axis' range


class _Look(NamedTuple):
    colour: str
    dashes: str


def curve_figure(runs: Sequence[RunCurves], against: Axis = "steps", *, title: str = "") -> Figure:
    """Draw the measurements of the runs in panels, one below the other, over a common x axis.

    The training loss is a thin line, smoothed over a twentieth of its points, with the points themselves behind it if
    there is one run. The validation loss has dots; the loss on the whole validation part, known at the end, is a star.

    Raises RunError if none of the runs has measured a loss yet.
    """
    if not any(run.has_loss for run in runs):
        raise RunError(f"{' and '.join(str(run.folder) for run in runs)}: no loss measured yet")
    unit = common_unit(runs)
    panels = [_LOSS, *(panel for panel in _OTHERS if any(len(run.series(panel.key)) for run in runs))]
    heights = [panel.height for panel in panels]
    width = 9.6 if len(runs) > 1 else 8.0
    fig, axes = figure(len(panels), title=title, size=(width, 1.1 + 1.35 * sum(heights)), share_x=True, heights=heights)
    for panel, place in zip(panels, axes, strict=True):
        for run, look in zip(runs, _looks(len(runs)), strict=True):
            panel.draw(place, run, look, against, len(runs) == 1)
        place.set_ylabel(panel.label.format(unit=unit))
        panel.scale(place)
    _frame_losses(axes[0], runs, against, unit)
    _legend(axes[0], runs)
    axes[-1].set_xlabel(axis_label(against, unit))
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[-1].set_xlim(left=0)
    return fig


def _looks(count: int) -> list[_Look]:
    return [_Look(COLOURS[i % len(COLOURS)], _DASHES[i // len(COLOURS) % len(_DASHES)]) for i in range(count)]


# The panels: each function draws one run's lines.


def _loss(axes: Axes, run: RunCurves, look: _Look, against: Axis, alone: bool) -> None:
    training, validation, whole = (run.series(key) for key in ("loss", "validation", "carried"))
    first, second = (COLOURS[0], COLOURS[1]) if alone else (look.colour, look.colour)
    if alone:
        axes.plot(run.x(training, against), training.values, color=first, lw=0.6, alpha=0.3)
    line = smooth(training)
    # Two points make a steep line that shows nothing of the way between them: they stay points.
    if len(line) >= _LINE:
        axes.plot(run.x(line, against), line.values, color=first, lw=0.9, ls=look.dashes)
    else:
        axes.plot(run.x(line, against), line.values, color=first, ls="", marker="o", ms=2.5)
    dashes = look.dashes if len(validation) >= _LINE else ""
    axes.plot(run.x(validation, against), validation.values, color=second, lw=1.6, ls=dashes, marker="o", ms=3.5)
    axes.plot(run.x(whole, against), whole.values, color=second, ls="", marker="*", ms=11, mec="white", zorder=3)


def _learning_rate(axes: Axes, run: RunCurves, look: _Look, against: Axis, alone: bool) -> None:
    rate = run.series("learning_rate")
    axes.plot(run.x(rate, against), rate.values, color=look.colour, ls=look.dashes, lw=1.3)


def _gradient_norm(axes: Axes, run: RunCurves, look: _Look, against: Axis, alone: bool) -> None:
    mean, most = _positive(run.series("gradient_norm")), _positive(run.series("gradient_norm_max"))
    if alone:
        axes.plot(run.x(most, against), most.values, color=look.colour, lw=0.6, alpha=0.35, label="largest")
        axes.plot(run.x(mean, against), mean.values, color=look.colour, lw=1.2, label="mean")
    else:
        line = smooth(mean)
        axes.plot(run.x(line, against), line.values, color=look.colour, ls=look.dashes, lw=1.0)
    skipped = run.series("skipped")
    new = np.diff(skipped.values, prepend=0) > 0
    if new.any():
        where = run.x(skipped, against)[new]
        foot, across = np.full(len(where), 0.06), axes.get_xaxis_transform()
        axes.scatter(where, foot, s=22, color=look.colour, marker="x", label="a step skipped", transform=across)
    if alone:
        legend(axes, above=True)


def _update_ratio(axes: Axes, run: RunCurves, look: _Look, against: Axis, alone: bool) -> None:
    line = smooth(_positive(run.series("update_ratio")))
    axes.plot(run.x(line, against), line.values, color=look.colour, ls=look.dashes, lw=1.0)


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def _fitting(axes: Axes) -> None:
    """Make the axis logarithmic if the values lie far apart; otherwise begin it at zero."""
    values = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axes.lines])
    if len(values) and values.max() > _FAR_APART * values.min():
        axes.set_yscale("log")
    else:
        _from_zero(axes)


class _Panel(NamedTuple):
    key: str
    label: str
    height: float
    draw: Callable[[Axes, RunCurves, _Look, Axis, bool], None]
    scale: Callable[[Axes], None]


_LOSS = _Panel("loss", "loss (nats per {unit})", 2.8, _loss, lambda axes: None)
_OTHERS = (
    _Panel("learning_rate", "learning rate", 1.0, _learning_rate, _from_zero),
    _Panel("gradient_norm", "gradient norm\nbefore clipping", 1.1, _gradient_norm, _fitting),
    _Panel("update_ratio", "|update| / |weights|", 1.0, _update_ratio, _fitting),
)


def _positive(series: Series) -> Series:
    """Return the points that a logarithmic axis can show."""
    some = series.values > 0
    return Series(series.steps[some], series.seconds[some], series.values[some])


def _to_bits(nats: ArrayLike) -> ArrayLike:
    return np.asarray(nats) / math.log(2)


def _to_nats(bits: ArrayLike) -> ArrayLike:
    return np.asarray(bits) * math.log(2)


def _frame_losses(axes: Axes, runs: Sequence[RunCurves], against: Axis, unit: str) -> None:
    """Set the range of the y axis by the losses after the very beginning, and add an axis of bits on the right."""
    shown = [(run.x(series, against), series.values) for run in runs for series in _losses(run)]
    begins = _BEGINNING * max((float(x[-1]) for x, _ in shown if len(x)), default=0.0)
    values = np.concatenate([values[x >= begins] for x, values in shown]) if shown else np.zeros(0)
    if len(values):
        margin = 0.05 * (values.max() - values.min()) or 0.05
        axes.set_ylim(values.min() - margin, values.max() + margin)
    bits = axes.secondary_yaxis("right", functions=(_to_bits, _to_nats))
    bits.set_ylabel(f"bits per {unit}", fontsize=9)
    bits.tick_params(labelsize=8)


def _losses(run: RunCurves) -> list[Series]:
    return [smooth(run.series("loss")), run.series("validation"), run.series("carried")]


def _legend(axes: Axes, runs: Sequence[RunCurves]) -> None:
    alone = len(runs) == 1
    first, second = (COLOURS[0], COLOURS[1]) if alone else ("#444444", "#444444")
    kinds = [
        ("loss", Line2D([], [], color=first, lw=0.9, label="training, smoothed")),
        ("validation", Line2D([], [], color=second, lw=1.6, marker="o", ms=3.5, label="validation, a sample")),
        ("carried", Line2D([], [], color=second, ls="", marker="*", ms=9, label="validation, all of it")),
    ]
    handles = [line for key, line in kinds if any(len(run.series(key)) for run in runs)]
    if not alone:
        if any(run.last("skipped") for run in runs):
            handles.append(Line2D([], [], color=first, ls="", marker="x", ms=5, label="a step skipped (below)"))
        handles += [
            Line2D([], [], color=look.colour, ls=look.dashes, lw=2, label=as_label(run.name))
            for run, look in zip(runs, _looks(len(runs)), strict=True)
        ]
    place = {"loc": "upper right"} if alone else {"loc": "upper left", "bbox_to_anchor": (1.09, 1.0)}
    axes.legend(handles=handles, fontsize=8, framealpha=0.9, edgecolor="#CCCCCC", **place)
