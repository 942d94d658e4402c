"""The sums before the nonlinearities, with first and with trained weights: their spread, and which units are flat."""

from typing import get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.check.checks.sums import GateSums, gate_sums, spread_by_layer
from models.check.outcome import Finding, Outcome, failure, ok, warning
from models.check.subject import Subject
from models.network.config import Init
from models.reporting.style import COLOURS, entitle, figure, legend

__all__ = ["check"]

STEPS, STREAMS = 64, 16
SMALL, LARGE, HUGE = 0.005, 5.0, 1e3  # standard deviations of a layer's sums
SAME = 1e-7  # spread of units that all do the same
FLAT, DEAD, MOST_DEAD = 0.5, 0.1, 0.5  # shares of units
DEEP, DEEP_HIDDEN, DEEP_STEPS = 8, 256, 16
SHOWN_LAYERS = 4
COLUMNS = 2
HEADROOM = 0.13  # share of the axis for a line of a legend
FLOOR = 1e-12  # the smallest value on a logarithmic axis


def check(subject: Subject) -> Outcome:
    ids = subject.windows(STEPS, STREAMS)[:-1]
    untrained = gate_sums(subject.fresh(), ids)
    trained = gate_sums(subject.loaded, ids) if subject.loaded else []
    spreads = _spreads_of_deep_models(subject)
    findings = [_judge(untrained, subject), *([_judge_trained(trained)] if trained else [])]
    figures = {
        "untrained": [_figures(gate) for gate in untrained],
        "trained": [_figures(gate) for gate in trained],
        "spread_by_layer": spreads,
    }
    return Outcome(tuple(findings), figures, lambda: _draw(subject.settings.init, untrained, trained, spreads))


def _figures(gate: GateSums) -> dict[str, float | str]:
    return {"name": gate.name} | {name: getattr(gate, name) for name in ("mean", "variance", "across", "flat", "dead")}


def _spreads_of_deep_models(subject: Subject) -> dict[str, list[float]]:
    """Return the spread of the outputs of each of eight layers, for each initialisation."""
    ids = subject.windows(DEEP_STEPS, STREAMS)[:-1]
    hidden = min(subject.config.hidden, DEEP_HIDDEN)
    sizes = {"layers": max(DEEP, subject.config.layers), "hidden": hidden, "norm": "none", "residual": False}
    return {init: spread_by_layer(subject.fresh(init, **sizes), ids) for init in get_args(Init)}


def _judge(gates: list[GateSums], subject: Subject) -> Finding:
    init = f"--init {subject.settings.init}"
    smallest, largest = (choose(gates, key=lambda gate: gate.variance) for choose in (min, max))
    if not largest.std < HUGE:
        return failure(f"{init}: the sums of {largest.name} explode, variance {largest.variance:.1g}: smaller weights")
    same = [gate for gate in gates if gate.across < SAME]
    if same:
        return failure(
            f"{init}: all units of {same[0].name} sum up to the same; so do their gradients, and they stay alike: "
            "draw the weights from another distribution"
        )
    ends = " to ".join(f"{gate.variance:.2g} ({gate.name})" for gate in (smallest, largest))
    text = f"{init}: variance of the sums from {ends}"
    if finding := _judge_units(gates, text):
        return finding
    if smallest.std < SMALL:
        return warning(
            f"{text}: the signal of {smallest.name} is faint, learning begins late; try --init xavier_normal"
        )
    if largest.std > LARGE:
        return warning(f"{text}: {largest.name} is far beyond where its nonlinearity bends; try --init xavier_normal")
    flattest = max(gates, key=lambda gate: gate.flat)
    return ok(f"{text}; {flattest.flat:.0%} flat at most, no unit dead")


def _judge_units(gates: list[GateSums], text: str) -> Finding | None:
    """Judge the slopes of the nonlinearities; return None if they are all right."""
    deadest, flattest = (max(gates, key=lambda gate: getattr(gate, name)) for name in ("dead", "flat"))
    if deadest.dead > DEAD:
        judge = failure if deadest.dead > MOST_DEAD else warning
        return judge(
            f"{text}: {deadest.dead:.0%} of the units of {deadest.name} are dead, flat at every character, and learn "
            "nothing; try another --init or --activation"
        )
    if flattest.flat > FLAT and flattest.saturates:
        return warning(
            f"{text}: {flattest.name} is saturated at {flattest.flat:.0%} of the characters: smaller weights"
        )
    return None


def _judge_trained(gates: list[GateSums]) -> Finding:
    deadest, flattest = (max(gates, key=lambda gate: getattr(gate, name)) for name in ("dead", "flat"))
    text = f"trained: {flattest.name} is flat at {flattest.flat:.0%} of units and characters"
    if deadest.dead > DEAD:
        return warning(
            f"{text}, and {deadest.dead:.0%} of {deadest.name} at every character: those units are lost; "
            "a lower --learning-rate or --clip-norm keeps them alive"
        )
    return ok(f"{text}, {deadest.dead:.1%} of {deadest.name} at every character")


def _draw(init: str, untrained: list[GateSums], trained: list[GateSums], spreads: dict[str, list[float]]) -> Figure:
    panels = [
        (name, gates) for name, kind in (("untrained", untrained), ("trained", trained)) for gates in _by_layer(kind)
    ]
    rows = -(-(len(panels) + 1) // COLUMNS)
    drawn, axes = figure(rows, COLUMNS, title="Sums before the nonlinearities", size=(11, 3.3 * rows))
    for panel, (name, gates) in zip(axes, panels, strict=False):
        _draw_layer(panel, name, gates)
    _draw_spreads(axes[-1], init, spreads)  # on the right, where there is room for its legend
    for unused in axes[len(panels) : -1]:
        unused.set_axis_off()
    return drawn


def _by_layer(gates: list[GateSums]) -> list[list[GateSums]]:
    """Return the gates of each layer that is shown."""
    layers = sorted({gate.layer for gate in gates})
    return [[gate for gate in gates if gate.layer == layer] for layer in layers[:SHOWN_LAYERS]]


def _draw_layer(axes: Axes, name: str, gates: list[GateSums]) -> None:
    edges = np.linspace(*_limits(gates), 80)
    for gate in gates:
        label = f"{gate.gate or 'sums'}: mean {gate.mean:.2g}, variance {gate.variance:.2g}, {gate.flat:.0%} flat"
        axes.hist(gate.values.numpy(), list(edges), density=True, histtype="step", linewidth=1.3, label=label)
    entitle(axes, f"layer {gates[0].layer + 1}, {name}")
    axes.set_ylim(top=axes.get_ylim()[1] * (1 + HEADROOM * len(gates)))
    axes.set_xlabel("sum before the nonlinearity")
    axes.set_ylabel("density")
    legend(axes)


def _limits(gates: list[GateSums]) -> tuple[float, float]:
    """Return the ends of the range in which nearly all sums lie."""
    ends = [np.quantile(gate.values.numpy(), (0.001, 0.999)) for gate in gates]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    return (low, high) if low < high else (low - 1, high + 1)


def _draw_spreads(axes: Axes, init: str, spreads: dict[str, list[float]]) -> None:
    for number, (name, values) in enumerate(spreads.items()):
        label = name + ": 0" * (not any(values)) + " (chosen)" * (name == init)
        shown = np.clip(np.nan_to_num(values, nan=np.inf), FLOOR, 1 / FLOOR)
        style = "-" if number < len(COLOURS) else "--"
        width = 2.5 if name == init else 1
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(range(1, len(shown) + 1), shown, style, color=colour, linewidth=width, label=label)
    axes.set_yscale("log")
    entitle(axes, f"the same, {len(next(iter(spreads.values())))} layers deep, untrained")
    axes.set_xlabel("layer")
    axes.set_ylabel("standard deviation of outputs")
    legend(axes, beside=True)
