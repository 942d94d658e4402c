"""The style of all plots, and how they are written. No pyplot: nothing is shared between figures."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.atomic_files import replacement

__all__ = ["COLOURS", "DOTS_PER_INCH", "FORMATS", "as_label", "entitle", "figure", "legend", "png", "save"]

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito (2008): colour-blind people can tell them apart. Yellow, too light for a line, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
DOTS_PER_INCH = 150
_BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
_ABOVE: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1.0, 0.97),
    "ncols": 8,
    "frameon": False,
    "borderaxespad": 0.0,
}
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "font.size": 9,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    title: str = "",
    size: tuple[float, float] | None = None,
    share_x: bool = False,
    heights: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, row by row.

    Args:
        size: width and height in inches; by default 6.4 x 3.6 for each panel, at most 12 wide.
        share_x: the panels of a column share an x axis, with numbers below the lowest panel.
        heights: relative heights of the rows.
    """
    with mpl.rc_context(_STYLE):
        result = Figure(size or (min(12.0, 6.4 * columns), 3.6 * rows), dpi=DOTS_PER_INCH, layout="constrained")
        grid = result.subplots(rows, columns, squeeze=False, sharex="col" if share_x else False, height_ratios=heights)
        if title:
            result.suptitle(as_label(title), x=0.01, ha="left")
    return result, list(grid.flat)


def entitle(axes: Axes, text: str) -> None:
    """Give a panel a title of its own, smaller than the figure's, at its left."""
    axes.set_title(text, loc="left", fontsize=10)


def legend(axes: Axes, *, beside: bool = False, above: bool = False) -> None:
    """Add a legend of all labels: where it covers least, right of the axes, or in one line above them."""
    place = _BESIDE if beside else _ABOVE if above else {"loc": "best"}
    axes.legend(fontsize=8, framealpha=0.9, edgecolor="#CCCCCC", **place)


def as_label(text: str) -> str:
    """Return the text as a label that matplotlib shows as it is: no formulas, no leading underscore, which hides it."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Write the figure in the format of its name's ending, one of `FORMATS`; make its folder.

    A picture that was there stays until this one is complete. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path) as new:
        _write(figure, new, path.suffix.lstrip("."))


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    buffer = io.BytesIO()
    _write(figure, buffer, "png")
    return buffer.getvalue()


def _write(figure: Figure, target: Path | io.BytesIO, kind: str) -> None:
    with warnings.catch_warnings():
        # The name of a run may have characters that the font lacks: they show as boxes.
        warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)
        figure.savefig(target, format=kind)
