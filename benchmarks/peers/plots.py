"""The plots of docs/benchmarks.md: bars by peer, as small SVG files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes

from benchmarks.peers.figures import Figures, Spread
from benchmarks.peers.table import Load, Peer
from models.reporting.style import COLOURS, figure, legend, save

__all__ = ["plot_speeds", "plot_waits"]

STREAMS = 64
# Words stay words, so that the file is small; names inside it do not change from run to run.
_SVG = {"svg.fonttype": "none", "svg.hashsalt": "charstream"}
Value = Callable[[Peer, Load], Spread | None]


def plot_speeds(peers: Sequence[Peer], figures: Figures, path: Path) -> None:
    """Draw characters a second at 64 streams, with one character a message and with eight."""
    label = f"characters a second, {STREAMS} streams"
    _bars(peers, figures.speed, label, path, False)


def plot_waits(peers: Sequence[Peer], figures: Figures, path: Path) -> None:
    """Draw the 99th percentile of the time until the first character at 64 streams; the axis is logarithmic."""

    def wait(peer: Peer, load: Load) -> Spread | None:
        found = figures.percentiles(peer, load, "first_ms")
        return found[1] if found else None

    served = [peer for peer in peers if peer.protocol != "lines"]
    _bars(served, wait, f"milliseconds until the first character, p99, {STREAMS} streams", path, True)


def _bars(peers: Sequence[Peer], value: Value, label: str, path: Path, logarithmic: bool) -> None:
    result, (axes,) = figure(size=(8.6, 0.8 + 0.42 * len(peers)))
    for offset, chunk, colour in ((-0.2, 1, COLOURS[5]), (0.2, 8, COLOURS[0])):
        found = [(place, value(peer, Load(STREAMS, chunk))) for place, peer in enumerate(peers)]
        kept = [(place + offset, spread) for place, spread in found if spread]
        if not kept:
            continue
        places, spreads = zip(*kept, strict=True)
        lengths = [spread.median for spread in spreads]
        sides = ([s.median - s.low for s in spreads], [s.high - s.median for s in spreads])
        name = "one character a message" if chunk == 1 else "eight"
        axes.barh(places, lengths, 0.38, xerr=sides, color=colour, label=name, error_kw={"elinewidth": 0.8})
        _numbers(axes, places, spreads)
    axes.set_yticks(range(len(peers)), [peer.title for peer in peers])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    if logarithmic:
        axes.set_xscale("log")
    axes.margins(x=0.14)
    if axes.patches:
        legend(axes, above=True)
    with mpl.rc_context(_SVG):
        save(result, path)


def _numbers(axes: Axes, places: Sequence[float], spreads: Sequence[Spread]) -> None:
    for place, spread in zip(places, spreads, strict=True):
        place_of_text = (spread.high, place)
        axes.annotate(
            f"{spread.median:,.0f}", place_of_text, (4, 0), textcoords="offset points", va="center", fontsize=7
        )
