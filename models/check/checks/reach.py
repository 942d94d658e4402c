"""How far back gradients reach, with first and with trained weights, in other cells, and with clipping."""

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from models.check.checks.flow import Flow, flow
from models.check.outcome import Finding, Outcome, failure, ok, warning
from models.check.subject import Subject
from models.check.trial import History
from models.network.char_lm import CharLM
from models.network.config import Cell
from models.reporting.style import COLOURS, entitle, figure, legend
from models.training.loss import mean_nats
from models.training.settings import TrainSettings

__all__ = ["check"]

LAGS, STREAMS = 100, 16
ARRIVES = 0.01  # share of a gradient that counts as arriving
NEAR = 10  # characters: about two words
GROWS = 1.02  # factor of a step back from which on gradients explode
EXPLODING = 1.1  # W_hh of the example is the identity times this
FLOOR = 1e-9  # the smallest share on the axis
CELLS: tuple[Cell, ...] = get_args(Cell)


@dataclass(frozen=True)
class Reach:
    """Gradients by lag.

    Attributes:
        untrained, trained: the model that is checked.
        cells: untrained models of the same sizes, by cell, whose recurrence is not normalised.
        exploding: a relu rnn with W_hh = 1.1 I.
        scale: the factor by which clipping to a norm of 1 multiplies the gradients of the relu rnn.
    """

    untrained: Flow
    trained: Flow
    cells: dict[str, Flow]
    exploding: Flow
    scale: float


def check(subject: Subject) -> Outcome:
    ids = subject.windows(LAGS, STREAMS)
    relu = _exploding(subject)
    result = Reach(
        flow(subject.fresh(), ids),
        flow(subject.trained_model, ids),
        {
            cell: flow(subject.fresh(cell=cell, activation="tanh", form="post", recurrent_norm="none"), ids)
            for cell in CELLS
        },
        flow(relu, ids),
        _scale(relu, ids),
    )
    findings = [_judge_bound(result), *_judge_reach(result, subject)]
    figures = {
        name: {"shares": kept.shares, "shares_of_c": kept.shares_of_c, "bound": kept.factor_bound}
        for name, kept in (("untrained", result.untrained), ("trained", result.trained), *result.cells.items())
    }
    return Outcome(tuple(findings), figures, lambda: _draw(result, subject))


def _exploding(subject: Subject) -> CharLM:
    """Return an rnn whose recurrent weights are a little above 1, with no nonlinearity that dampens them."""
    model = subject.fresh("xavier_normal", cell="rnn", activation="relu", form="post", recurrent_norm="none")
    with torch.no_grad():
        for layer in model.layers:
            nn.init.eye_(layer.weight_hh).mul_(EXPLODING)
    return model


def _scale(model: CharLM, ids: torch.Tensor) -> float:
    """Return 1 / ||g||, g being the gradient of all weights, or 1 if ||g|| is below 1."""
    loss = mean_nats(model(ids[:-1], model.initial_state(ids.shape[1]))[0], ids[1:])
    gradients = torch.autograd.grad(loss, [tensor for tensor in model.parameters() if tensor.requires_grad])
    return min(1.0, 1 / nn.utils.get_total_norm(gradients).item())


def _judge_bound(result: Reach) -> Finding:
    known = [kept for kept in (result.untrained, result.trained, result.cells["rnn"]) if kept.bounds]
    if not all(kept.is_within_bound for kept in known):
        return failure("gradients exceed (gamma_W gamma_phi)^lag: the backward pass is wrong")
    return ok(
        "no gradient exceeds the bound (gamma_W gamma_phi)^lag; untrained, gamma_W gamma_phi is "
        f"{known[0].factor_bound:.2f} {'in an rnn of these sizes' if result.untrained.factor_bound is None else 'here'}"
    )


def _judge_reach(result: Reach, subject: Subject) -> list[Finding]:
    clipped = bool(subject.settings.clip_norm or subject.settings.clip_value)
    return [
        _judge_one(name, kept, subject, clipped=clipped)
        for name, kept in (("untrained", result.untrained), ("trained", result.trained))
    ]


def _judge_one(name: str, kept: Flow, subject: Subject, *, clipped: bool) -> Finding:
    if not kept.h[0]:
        return failure(
            f"{name}: dL/dh is 0 at the last {subject.unit} already, no gradient arrives: try another --init"
        )
    if not kept.is_finite:
        return failure(f"{name}: gradients are no numbers; lower --learning-rate, or smaller weights by --init")
    if kept.factor > GROWS:
        text = f"{name}: gradients explode, {kept.factor:.2f} times as long with each {subject.unit} back"
        return ok(f"{text}; clipping holds the step") if clipped else warning(f"{text}: give --clip-norm 1")
    reach = kept.reach(ARRIVES)
    if reach == len(kept.h) - 1:
        return ok(
            f"{name}: more than a hundredth of a gradient arrives {reach} {subject.unit}s back, all that was looked at"
        )
    text = f"{name}: a hundredth of a gradient arrives {reach} {subject.unit}s back"
    if reach >= NEAR:
        return ok(text)
    if subject.config.cell == "rnn":
        return warning(f"{text}, what lies further back is hardly learnt: --cell lstm or gru reaches further")
    return (
        ok(f"{text}, so far")
        if subject.loaded is None
        else warning(f"{text}: little context is used; longer training would help")
    )


def _draw(result: Reach, subject: Subject) -> Figure:
    drawn, (own, cells, exploding, norms) = figure(2, 2, title="How far back gradients reach", size=(11, 7.2))
    _draw_own(own, result, subject)
    _draw_cells(cells, result)
    _draw_exploding(exploding, result)
    _draw_norms(norms, subject.history, subject.settings)
    for axes in (own, cells, exploding):
        axes.set_yscale("log")
        axes.set_xlabel(f"lag T - t, {subject.unit}s back")
        axes.set_ylabel("||dL/dh_t|| / ||dL/dh_T||")
    return drawn


def _line(axes: Axes, shares: list[float], label: str, **style: Any) -> None:
    axes.plot(range(len(shares)), np.array(shares) + np.finfo(float).tiny, label=label, **style)


def _draw_own(axes: Axes, result: Reach, subject: Subject) -> None:
    for name, kept, colour in (("untrained", result.untrained, COLOURS[0]), ("trained", result.trained, COLOURS[1])):
        _line(axes, kept.shares, name, color=colour)
        if kept.c:
            _line(axes, kept.shares_of_c, f"{name}, cell state c_t", color=colour, linestyle="--")
        if kept.factor_bound is not None:
            _line(axes, kept.bounds, f"{name}, bound {kept.factor_bound:.2f}^lag", color=colour, linestyle=":")
    cut = subject.settings.sequence
    if cut < len(result.untrained.h):
        axes.axvline(cut, color=COLOURS[7], linewidth=1, label=f"--sequence {cut}: training cuts off here")
    shown = [value for kept in (result.untrained, result.trained) for value in (*kept.shares, *kept.shares_of_c)]
    axes.set_ylim(max(FLOOR, min(shown) / 3), max(1.0, *shown) * 30)
    entitle(axes, f"this model, {subject.config.cell}")
    legend(axes)


def _draw_cells(axes: Axes, result: Reach) -> None:
    for (cell, kept), colour in zip(result.cells.items(), COLOURS[2:], strict=False):
        _line(axes, kept.shares, cell, color=colour)
        if kept.c:
            _line(axes, kept.shares_of_c, f"{cell}, cell state c_t", color=colour, linestyle="--")
    rnn = result.cells["rnn"]
    _line(axes, rnn.bounds, f"rnn, bound {rnn.factor_bound:.2f}^lag", color=COLOURS[2], linestyle=":")
    axes.set_ylim(FLOOR, 30)
    entitle(axes, "the cells at these sizes, untrained")
    legend(axes)


def _draw_exploding(axes: Axes, result: Reach) -> None:
    kept = result.exploding
    _line(axes, kept.shares, f"relu rnn, W_hh = {EXPLODING:g} I", color=COLOURS[1])
    _line(axes, kept.bounds, f"its bound {kept.factor_bound:.2f}^lag", color=COLOURS[1], linestyle=":")
    _line(axes, [share * result.scale for share in kept.shares], "clipped to a norm of 1", color=COLOURS[2])
    entitle(axes, "exploding, and clipping: all of it shorter, in the same proportions")
    legend(axes)


def _draw_norms(axes: Axes, history: History, settings: TrainSettings) -> None:
    clip = settings.clip_norm
    label = f"before --clip-value {settings.clip_value:g}" if settings.clip_value else "before clipping"
    axes.plot(history.gradient_norm.steps, history.gradient_norm.values, color=COLOURS[0], linewidth=1, label=label)
    if clip:
        axes.axhline(clip, color=COLOURS[2], linestyle="--", label=f"--clip-norm {clip:g}: longer ones become as long")
    axes.set_yscale("log")
    entitle(axes, f"gradients in training, {history.source}")
    axes.set_xlabel("step")
    axes.set_ylabel("norm of the gradient of all weights")
    legend(axes)
