"""The loss before training: ln V if the model begins without opinions, and more with a penalty on weights."""

import math
from typing import NamedTuple

import torch
from matplotlib.figure import Figure

from models.check.outcome import Finding, Outcome, failure, ok, warning
from models.check.subject import Subject
from models.reporting.style import COLOURS, figure
from models.training.loss import mean_nats, training_loss

__all__ = ["InitialLoss", "check"]

STEPS, STREAMS = 64, 32
L2 = (1e-4, 1e-3)
NEAR, FAR = 0.05, 0.5  # of ln V


class InitialLoss(NamedTuple):
    """Nats per character.

    Attributes:
        uniform: ln V.
        unigram: the loss of a model that knows the characters' frequencies alone.
        penalised: the loss with each penalty, by its name.
    """

    nats: float
    uniform: float
    unigram: float
    penalised: dict[str, float]

    @property
    def away(self) -> float:
        """The distance from ln V, as a share of it."""
        return abs(self.nats - self.uniform) / self.uniform if self.uniform else 0.0


def check(subject: Subject) -> Outcome:
    result = _measure(subject)
    figures = result._asdict()
    findings = (_judge(result, subject), *_judge_penalty(result))
    return Outcome(findings, figures, (lambda: _draw(result, subject.unit)) if math.isfinite(result.nats) else None)


@torch.no_grad()
def _measure(subject: Subject) -> InitialLoss:
    model, ids = subject.fresh().eval(), subject.windows(STEPS, STREAMS)
    nats = mean_nats(model(ids[:-1], model.initial_state(STREAMS))[0], ids[1:])
    penalties = {f"--l2 {strength:g}": {"l2": strength} for strength in L2}
    for name in ("l1", "l2"):
        if strength := getattr(subject.settings, name):
            penalties[f"--{name} {strength:g}"] = {name: strength}
    return InitialLoss(
        nats.item(),
        math.log(subject.config.vocab),
        subject.unigram_entropy,
        {name: training_loss(nats, STEPS, model, "mean", **penalty).item() for name, penalty in penalties.items()},
    )


def _judge(result: InitialLoss, subject: Subject) -> Finding:
    text = f"{result.nats:.4g} nats before training; ln V, all {subject.unit}s alike, is {result.uniform:.4g}"
    if result.away <= NEAR:
        return ok(text)
    init = f"--init {subject.settings.init}"
    advice = f"it begins with opinions that it has to unlearn: {init} draws the head's weights too large"
    return (warning if result.away <= FAR else failure)(f"{text}: {advice}")


def _judge_penalty(result: InitialLoss) -> list[Finding]:
    name, nats = list(result.penalised.items())[-1]
    if not result.away <= FAR:  # rounding swallows a penalty
        return []
    if nats > result.nats:
        return [ok(f"regularisation raises it, as it must: {nats:.3f} with {name}")]
    return [warning(f"{name} does not raise it: all weights are zero; try another --init")]


def _draw(result: InitialLoss, unit: str) -> Figure:
    drawn, (axes,) = figure(title="Loss before training", size=(6.4, 3.2))
    bars = {"frequencies known (not trained)": result.unigram, "untrained": result.nats}
    bars |= {f"untrained, {name}": nats for name, nats in result.penalised.items()}
    colours = [COLOURS[7], COLOURS[0], *[COLOURS[5]] * len(result.penalised)]
    shown = axes.barh(list(bars), list(bars.values()), color=colours, height=0.6)
    axes.bar_label(shown, fmt="%.3f", padding=3, fontsize=8, bbox={"color": "white", "pad": 0.5})
    axes.axvline(result.uniform, color=COLOURS[1], linestyle="--")
    axes.text(
        result.uniform,
        1.01,
        f"ln V = {result.uniform:.3f}",
        color=COLOURS[1],
        fontsize=8,
        ha="center",
        transform=axes.get_xaxis_transform(),
    )
    axes.set_xlabel(f"loss and penalty, nats per {unit}")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    return drawn
