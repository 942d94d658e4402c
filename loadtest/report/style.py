"""The style of the plots: drawn once, shown in the page's own colours, light or dark. No pyplot."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["COLOURS", "Plot", "canvas", "legend"]

# Colour -> the variable of the page's style sheet that takes its place. The lines are Okabe and Ito's (2008), which
# colour-blind people can tell apart.
INK, GRID, PAPER = "#1a1a1b", "#e3e3e4", "#fefefe"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
VARIABLES = {INK: "ink", GRID: "grid", PAPER: "paper"} | {colour: f"line{i}" for i, colour in enumerate(COLOURS, 1)}
WIDTH, HEIGHT, DOTS_PER_INCH = 6.6, 2.4, 150
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.facecolor": PAPER,
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.facecolor": PAPER,
    "legend.edgecolor": GRID,
    "legend.labelcolor": INK,
    "svg.fonttype": "path",  # the page's fonts have other widths
    "svg.hashsalt": "charstream",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@dataclass(frozen=True)
class Plot:
    """A figure with its title and a sentence that says what to see in it."""

    name: str
    title: str
    caption: str
    figure: Figure

    def svg(self) -> str:
        """Return the figure as an element of a page, whose colours it takes."""
        with mpl.rc_context(_STYLE):
            buffer = io.StringIO()
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        for colour, name in VARIABLES.items():
            text = text.replace(colour, f"var(--{name})")
        # Identifiers are unique in a file, and several files are in a page.
        text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{self.name}-", text)
        return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{self.title}"', text, count=1)

    def png(self) -> bytes:
        with mpl.rc_context(_STYLE):
            buffer = io.BytesIO()
            self.figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
        return buffer.getvalue()


def canvas(
    rows: int, *, draw: Callable[[Sequence[Axes]], None], height: float = HEIGHT, share_x: bool = True
) -> Figure:
    """Return a figure of panels below each other, as `draw` fills them."""
    with mpl.rc_context(_STYLE):
        figure = Figure((WIDTH, height * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, 1, squeeze=False, sharex=share_x)
        draw(list(panels.flat))
    return figure


def legend(axes: Axes) -> None:
    """Add a legend above the panel, where it covers nothing and needs no width of its own."""
    if axes.get_legend_handles_labels()[0]:
        place: Any = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.1}
        axes.legend(fontsize=8, ncols=3, frameon=False, handlelength=1.6, columnspacing=1.2, **place)
