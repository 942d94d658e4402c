"""The plots of a result: over time, distributions, throughput against latency."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from loadtest.measures.distribution import Distribution
from loadtest.measures.document import Document
from loadtest.measures.gates import figure
from loadtest.measures.record import MEASURES
from loadtest.report.style import Plot, canvas, legend

__all__ = ["figures", "loads_of"]

Run = Mapping[str, Any]
SHOWN = ("first", "gap", "stall", "per-char", "whole")


def figures(content: Document) -> list[Plot]:
    """Return the plots that the result has something for: of several runs, those over time are of the last one."""
    runs, plots = content["runs"], []
    if len(loads_of(runs)) > 1:
        plots.append(_curve(runs, content["finding"]))
    last = runs[-1]
    if last["series"]:
        plots.append(_over_time(last))
    if any(name in last["measures"] for name in SHOWN):
        plots.append(_distributions(last))
    if last["server"] and len(last["server"]["series"]) > 1:
        plots.append(_server(last["server"]["series"]))
    return plots


def loads_of(runs: Sequence[Run]) -> list[float]:
    """Return the loads of runs, upwards: users, or texts a second; none where each run had the same."""
    return sorted({run["load"] for run in runs if "load" in run})


def _curve(runs: Sequence[Run], finding: Mapping[str, Any]) -> Plot:
    latest = [next(run for run in reversed(runs) if run.get("load") == load) for load in loads_of(runs)]
    latest = [run for run in latest if figure(run, "first.p50") is not None]
    marked = finding.get("knee", finding.get("capacity"))
    word = "knee" if "knee" in finding else "capacity"

    def draw(panels: Sequence[Axes]) -> None:
        for axes, measure in zip(panels, ("first", "gap"), strict=True):
            for name, style in (("p50", "o-"), ("p99", "s--")):
                points = [(run, figure(run, f"{measure}.{name}")) for run in latest]
                known = [(run["figures"]["chars-per-second"], value) for run, value in points if value]
                if known:
                    axes.plot(*zip(*known, strict=True), style, markersize=4, label=name)
            for run in latest:
                value = figure(run, f"{measure}.p99")
                if value:
                    label = f"{run['load']:,.4g}" + (f" ({word})" if run["load"] == marked else "")
                    place = (run["figures"]["chars-per-second"], value)
                    axes.annotate(label, place, xytext=(3, 5), textcoords="offset points", fontsize=8)
            axes.set_yscale("log")
            axes.margins(x=0.08, y=0.15)
            axes.set_ylabel("first character (ms)" if measure == "first" else "gap (ms)")
            _plain(axes)
            legend(axes)
        panels[-1].set_xlabel("characters a second of all streams")
        panels[-1].xaxis.set_major_formatter(EngFormatter())

    unit = finding.get("unit", "users")
    return Plot(
        "throughput",
        "Throughput against latency",
        f"Each point is a load, labelled with its {unit}. Right and low is good; where it turns upwards, more load "
        "brings latency and no more characters.",
        canvas(2, draw=draw),
    )


def _over_time(run: Run) -> Plot:
    rows = run["series"][:-1] or run["series"]  # the last interval is not whole
    at = [row["at"] for row in rows]

    def draw(panels: Sequence[Axes]) -> None:
        rate, first, gap, streams = panels
        rate.plot(at, [row["chars_per_second"] for row in rows], label="received")
        rate.set_ylabel("characters/s")
        rate.yaxis.set_major_formatter(EngFormatter())
        for axes, name, label in ((first, "first", "first character (ms)"), (gap, "gap", "gap (ms)")):
            for percent, style in ((50, "-"), (99, "--")):
                axes.plot(at, [row[f"{name}_p{percent}"] for row in rows], style, label=f"p{percent}")
            axes.set_ylabel(label)
        streams.plot(at, [row["streams"] for row in rows], label="in flight")
        for name in ("finished", "failed", *(["good"] if run["goodput"] else [])):
            streams.plot(at, [row[f"{name}_per_second"] for row in rows], label=f"{name}/s")
        streams.set_ylabel("streams")
        streams.set_xlabel("seconds since the run began")
        for axes in panels:
            axes.set_ylim(bottom=0)
            if run["warmup"]:
                axes.axvspan(0, run["warmup"], color="#7f7f7f", alpha=0.15, linewidth=0)
            legend(axes)

    caption = (
        "Each point is an interval of " + f"{rows[0]['at']:g} s. " + ("Grey: the warm-up." if run["warmup"] else "")
    )
    return Plot("time", "Over time", caption, canvas(4, draw=draw, height=1.8))


def _distributions(run: Run) -> Plot:
    def draw(panels: Sequence[Axes]) -> None:
        for name in SHOWN:
            if name in run["measures"]:
                found = Distribution.from_json(run["measures"][name]["distribution"])
                steps = [(max(value, 0.01), 100 * below / found.count) for value, below in found.steps()]
                panels[0].step(*zip(*steps, strict=True), where="post", label=MEASURES[name].title)
        panels[0].set_xscale("log")
        _plain(panels[0], axis="x")
        panels[0].set_xlabel("ms")
        panels[0].set_ylabel("share of all (%)")
        legend(panels[0])

    return Plot(
        "distributions",
        "Distributions",
        "How many values are at most so long: where a curve crosses 99 % is the p99.",
        canvas(1, draw=draw, height=3.2),
    )


def _server(rows: Sequence[Mapping[str, float]]) -> Plot:
    at = [row["at"] for row in rows]

    def draw(panels: Sequence[Axes]) -> None:
        loaded, cost, memory = panels
        for name in ("rows", "waiting", "paused rows"):
            loaded.plot(at, [row.get(name, 0) for row in rows], label=name)
        loaded.set_ylabel("texts")
        cost.plot(at, [row.get("cpu seconds per second", 0) for row in rows], label="CPU (cores)")
        cost.plot(at, [row.get("step ms", float("nan")) for row in rows], label="a step (ms)")
        cost.set_ylabel("cores, ms")
        memory.plot(at, [row.get("memory", 0) / 2**20 for row in rows], label="resident")
        memory.set_ylabel("memory (MB)")
        memory.set_xlabel("seconds since the run began")
        for axes in panels:
            axes.set_ylim(bottom=0)
            legend(axes)

    return Plot("server", "The server", "Its own figures, from its Prometheus page.", canvas(3, draw=draw, height=1.8))


def _plain(axes: Axes, axis: str = "y") -> None:
    """Write the numbers of a logarithmic axis as they are, not as powers."""
    found = axes.yaxis if axis == "y" else axes.xaxis
    found.set_major_formatter(lambda value, _: f"{value:,.6g}")
