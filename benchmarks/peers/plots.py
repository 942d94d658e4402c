"""The plots of docs/benchmarks.md: bars by peer, as small SVG files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from benchmarks.peers.figures import Figures, Spread
from benchmarks.peers.table import Load, Peer
from models.reporting.style import COLOURS, figure, legend, save

__all__ = ["plot_speeds", "plot_waits"]

STREAMS = 64
# Words stay words, so that the file is small; names inside it do not change from run to run.
_SVG = {"svg.fonttype": "none", "svg.hashsalt": "charstream"}
Value = Callable[[Peer, Load], Spread | None]


def plot_speeds(peers: Sequence[Peer], figures: Figures, path: Path) -> None:
    """Draw characters a second at 64 streams, with one character a message and with eight; charstream's in orange."""
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
    for offset, chunk, colour, own in ((-0.2, 1, COLOURS[5], COLOURS[4]), (0.2, 8, COLOURS[0], COLOURS[1])):
        found = [(place, spread) for place, peer in enumerate(peers) if (spread := value(peer, Load(STREAMS, chunk)))]
        if not found:
            continue
        places, spreads = [place + offset for place, _ in found], [spread for _, spread in found]
        sides = ([s.median - s.low for s in spreads], [s.high - s.median for s in spreads])
        name = "one character a message" if chunk == 1 else "eight"
        lengths = [spread.median for spread in spreads]
        bars = axes.barh(places, lengths, 0.38, xerr=sides, color=colour, label=name, error_kw={"elinewidth": 0.8})
        for bar, (place, _) in zip(bars, found, strict=True):
            if peers[place].is_ours:
                bar.set_color(own)
        _numbers(axes, places, spreads)
    axes.set_yticks(range(len(peers)), [peer.title for peer in peers])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    axes.margins(x=0.14)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(left=1)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
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
