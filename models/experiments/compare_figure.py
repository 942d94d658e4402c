"""A figure of a comparison: the final losses of the variants, and their loss curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from models.experiments.variants import VariantResult
from models.experiments.vary import format_changes
from models.reporting.curves import Axis, axis_label, read_curves
from models.reporting.style import COLOURS, as_label, figure, legend

__all__ = ["compare_figure"]

_BEGINNING = 0.05  # share of a curve whose losses, which fall steeply, are left out of the y axis' range
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (1, 4)), (0, (8, 2, 1, 2, 1, 2)))


class _Layout:
    """The place and the look of a variant: its first option is the x axis, the others make a group with a colour."""

    def __init__(self, compared: Sequence[VariantResult]) -> None:
        self.option = next(iter(compared[0].changes))
        self.places = list(dict.fromkeys(one.changes[self.option] for one in compared))
        self.groups = list(dict.fromkeys(self.group(one) for one in compared))

    def group(self, one: VariantResult) -> str:
        return format_changes({name: value for name, value in one.changes.items() if name != self.option})

    def place(self, one: VariantResult) -> int:
        return self.places.index(one.changes[self.option])

    def colour(self, group: str) -> str:
        return COLOURS[self.groups.index(group) % len(COLOURS)]

    def curve_style(self, one: VariantResult) -> dict[str, Any]:
        """Return a colour for the group and dashes for the first option; with one group, a colour for the option."""
        place = self.place(one)
        if len(self.groups) == 1:
            return {"color": COLOURS[place % len(COLOURS)]}
        return {"color": self.colour(self.group(one)), "ls": _DASHES[place % len(_DASHES)]}


def compare_figure(compared: Sequence[VariantResult], against: Axis) -> Figure:
    """Draw the losses over the first varied option, a line for each combination of the others; right, the curves."""
    layout = _Layout(compared)
    fig, (left, right) = figure(1, 2, size=(13.0, 4.6))
    _losses(left, compared, layout)
    _curves(right, compared, layout, against)
    return fig


def _losses(axes: Axes, compared: Sequence[VariantResult], layout: _Layout) -> None:
    # Between values without an order there is no line.
    lines = all(isinstance(place, int | float) and not isinstance(place, bool) for place in layout.places)
    for group in layout.groups:
        members = [one for one in compared if layout.group(one) == group]
        validation = [(layout.place(one), one.validation_nats) for one in members]
        training = [(layout.place(one), one.training_nats) for one in members]
        _points(
            axes,
            training,
            {"color": layout.colour(group), "marker": "x", "ms": 5, "ls": ":" if lines else "", "lw": 1.2},
        )
        _points(axes, validation, {"color": layout.colour(group), "marker": "o", "ms": 5, "ls": "-" if lines else ""})
    axes.set_xticks(range(len(layout.places)), [str(place) for place in layout.places])
    axes.set_xlim(-0.4, len(layout.places) - 0.6)
    axes.set_xlabel(layout.option.replace("_", " "))
    axes.set_ylabel(f"loss (nats per {compared[0].unit})")
    kinds = [
        Line2D([], [], color="#444444", ls="-" if lines else "", marker="o", ms=5, label="validation, all of it"),
        Line2D([], [], color="#444444", ls=":" if lines else "", marker="x", ms=5, label="training, the last steps"),
    ]
    groups = [
        Line2D([], [], color=layout.colour(group), lw=2, label=as_label(group)) for group in layout.groups if group
    ]
    axes.legend(handles=[*kinds, *groups], fontsize=8, framealpha=0.9, edgecolor="#CCCCCC")


def _points(axes: Axes, points: Sequence[tuple[int, float | None]], look: dict[str, Any]) -> None:
    known = sorted((place, loss) for place, loss in points if loss is not None)
    if known:
        axes.plot(*zip(*known, strict=True), **look)


def _curves(axes: Axes, compared: Sequence[VariantResult], layout: _Layout, against: Axis) -> None:
    shown_losses = []
    for one in compared:
        x, losses = _validation(one, against)
        axes.plot(x, losses, lw=1.3, label=as_label(format_changes(one.changes)), **layout.curve_style(one))
        shown_losses.append(losses[x >= _BEGINNING * x.max(initial=0)])
    every = np.concatenate(shown_losses)
    if len(every):
        margin = 0.05 * (every.max() - every.min()) or 0.05
        axes.set_ylim(every.min() - margin, every.max() + margin)
    axes.set_xlabel(axis_label(against, compared[0].unit))
    axes.set_ylabel(f"validation loss, a sample (nats per {compared[0].unit})")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    legend(axes, beside=True)


def _validation(one: VariantResult, against: Axis) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    run = read_curves(Path(one.run))
    validation = run.series("validation")
    return run.x(validation, against), validation.values
