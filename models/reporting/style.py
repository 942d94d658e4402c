"""How plots look: one style for all of them, and how they are written. No pyplot: nothing is shared between figures."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.atomic_files import whole

__all__ = ["COLOURS", "DOTS_PER_INCH", "FORMATS", "as_label", "figure", "legend", "png", "save"]

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's (2008), which people who are colour-blind can tell apart; yellow, too light for a line, is left out.
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
    """A figure and its axes, row by row.

    Args:
        size: width and height in inches; 6.4 x 3.6 a panel by default, at most 12 wide.
        share_x: the panels of a column have one x axis, whose numbers stand below the lowest.
        heights: of the rows, relative to each other.
    """
    with mpl.rc_context(_STYLE):
        result = Figure(size or (min(12.0, 6.4 * columns), 3.6 * rows), dpi=DOTS_PER_INCH, layout="constrained")
        grid = result.subplots(rows, columns, squeeze=False, sharex="col" if share_x else False, height_ratios=heights)
        if title:
            result.suptitle(as_label(title), x=0.01, ha="left")
    return result, list(grid.flat)


def legend(axes: Axes, *, beside: bool = False, above: bool = False) -> None:
    """The legend of what has a label: where it covers least, right of the axes, or in one line above them."""
    place = _BESIDE if beside else _ABOVE if above else {"loc": "best"}
    axes.legend(fontsize=8, framealpha=0.9, edgecolor="#CCCCCC", **place)


def as_label(text: str) -> str:
    """Any text as matplotlib shows it: no formulas, and no leading underscore, which hides a label."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as its name's ending says, one of `FORMATS`; makes the folder.

    A picture that was there stays until this one is whole. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as new:
        _write(figure, new, path.suffix.lstrip("."))


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    _write(figure, buffer, "png")
    return buffer.getvalue()


def _write(figure: Figure, target: Path | io.BytesIO, kind: str) -> None:
    with warnings.catch_warnings():
        # A name of a run may have characters that the font lacks: they show as boxes.
        warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)
        figure.savefig(target, format=kind)
