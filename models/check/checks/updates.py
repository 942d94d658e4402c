"""The size of a step relative to the weights: |change| / |weights|.

With about a thousandth in a step, weights change visibly in a hundred steps and settle: a rule of thumb (Karpathy,
CS231n, 2015). With several hundredths they are shaken, with a hundred-thousandth they stand still. Rules that divide by
the gradient's size (adam, adagrad, rmsprop) begin with more.
"""

from statistics import median

import numpy as np
from matplotlib.figure import Figure

from models.check.outcome import Finding, Outcome, failure, ok, warning
from models.check.subject import Subject
from models.check.trial import History
from models.reporting.style import COLOURS, figure, legend

__all__ = ["check"]

USUAL = (1e-4, 1e-2)  # a band in the plot
GOOD = (3e-5, 3e-2)
POSSIBLE = (1e-6, 0.3)


def check(subject: Subject) -> Outcome:
    history = subject.history
    ratios = {name: median(curve.values.tolist()) for name, curve in history.update_ratios.items()}
    findings = (_judge(history, ratios, subject.settings.learning_rate),)
    return Outcome(findings, {"source": history.source, "median_ratio": ratios}, lambda: _draw(history))


def _judge(history: History, ratios: dict[str, float], learning_rate: float) -> Finding:
    if history.diverged:
        return failure(f"{history.source}: {history.diverged}; try a --learning-rate below {learning_rate:g}")
    losses = history.loss.values.tolist()
    if losses[-1] > losses[0]:
        rose = f"the loss rose from {losses[0]:.3f} to {losses[-1]:.3f}"
        return failure(f"{history.source}: {rose}: lower --learning-rate {learning_rate:g}")
    if not ratios:
        return failure(f"{history.source}: no matrix has any weight but zero, none is moved: try another --init")
    typical = median(ratios.values())
    slow, fast = (choose(ratios, key=ratios.__getitem__) for choose in (min, max))
    spread = "" if slow == fast else f" (from {ratios[slow]:.0e}, {slow}, to {ratios[fast]:.0e}, {fast})"
    if not ratios[slow]:
        return failure(f"{history.source}: {slow} is not moved at all, no gradient reaches it: try another --init")
    text = f"{history.source}: a step moves the weights by {typical:.1e} of their size{spread}"
    if GOOD[0] <= typical <= GOOD[1] and ratios[fast] <= POSSIBLE[1]:
        return ok(text)
    advice = "raise" if typical < GOOD[0] else "lower"
    far = typical < POSSIBLE[0] or ratios[fast] > POSSIBLE[1]
    return (failure if far else warning)(f"{text}, usual is about 1e-3: {advice} --learning-rate {learning_rate:g}")


def _draw(history: History) -> Figure:
    drawn, (axes,) = figure(title=f"Updates: {history.source}", size=(8.5, 3.8))
    axes.axhspan(*USUAL, color=COLOURS[2], alpha=0.12, label=f"usual: {USUAL[0]:g} to {USUAL[1]:g}", linewidth=0)
    for number, (name, curve) in enumerate(history.update_ratios.items()):
        style = ("-", "--", ":")[number // len(COLOURS) % 3]
        shown = np.maximum(curve.values, np.finfo(float).tiny)
        axes.plot(curve.steps, shown, style, color=COLOURS[number % len(COLOURS)], linewidth=1.2, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("|change in a step| / |weights|")
    legend(axes, beside=True)
    return drawn
