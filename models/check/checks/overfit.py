"""Overfitting twenty lines: a model that cannot learn them by heart will learn nothing else either."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from models.check.outcome import Finding, Outcome, failure, ok, warning
from models.check.subject import NO_DROPOUT, Subject
from models.network.char_lm import CharLM
from models.reporting.style import COLOURS, figure, legend
from models.terminal import ProgressBar

__all__ = ["Overfit", "check", "overfit"]

LINES, MOST_CHARS = 20, 1000
STREAMS = 8
UNCOUNTED = 8  # characters that a stream reads before its own, so that it knows its place in the text
LEARNT, HALF_LEARNT = 0.05, 0.5  # nats
LEARNING_RATES = (1e-2, 3e-3, 1e-3)  # Adam's, one after another, from the first weights again
MOST_STEPS, SECONDS = 300, 20.0  # for each learning rate


@dataclass(frozen=True)
class Overfit:
    """The losses of all steps in nats, by Adam's learning rate."""

    characters: int
    losses: dict[float, list[float]]

    @property
    def is_cut_short(self) -> bool:
        """Whether the time was up while the model still learnt."""
        losses = self.losses[self.rate]
        return len(losses) < MOST_STEPS and losses[-1] < losses[0]

    @property
    def rate(self) -> float:
        """The learning rate with the lowest loss."""
        return min(self.losses, key=lambda rate: min(self.losses[rate]))

    @property
    def lowest(self) -> float:
        return min(self.losses[self.rate])


def check(subject: Subject) -> Outcome:
    ids = subject.lines(LINES, MOST_CHARS)
    tried: dict[float, list[float]] = {}
    with ProgressBar("overfit", " steps") as bar:
        for rate in LEARNING_RATES:
            tried[rate] = []
            for loss in overfit(subject.fresh(**NO_DROPOUT), ids, rate):
                tried[rate].append(loss)
                bar.advance(1, f"loss {loss:.3f}")
            if tried[rate][-1] < LEARNT:
                break
    result = Overfit(len(ids), tried)
    return Outcome(
        (_judge(result, subject.unit),),
        {
            "nats": result.lowest,
            "steps": len(result.losses[result.rate]),
            "characters": result.characters,
            "learning_rate": result.rate,
        },
        lambda: _draw(result, subject.unit),
    )


def overfit(model: CharLM, ids: Tensor, learning_rate: float) -> Iterator[float]:
    """Learn a text by heart with Adam, and yield the loss of each step, until it is learnt or the time is up.

    Each step reads the whole text, from several places side by side.

    Args:
        ids: [N] int64.
    """
    x, y = _side_by_side(ids)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    state, until = model.initial_state(x.shape[1]), time.monotonic() + SECONDS
    for _ in range(MOST_STEPS):
        logits, _ = model(x, state)
        loss = nn.functional.cross_entropy(logits[UNCOUNTED:].flatten(0, 1), y[UNCOUNTED:].flatten())
        yield loss.item()
        if not LEARNT <= loss.item() < float("inf") or time.monotonic() > until:
            return
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _side_by_side(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs and targets [UNCOUNTED + C, S]: S parts of C characters, each after those before it."""
    streams = max(1, min(STREAMS, len(ids) // (4 * UNCOUNTED)))
    own = (len(ids) - UNCOUNTED - 1) // streams
    windows = ids.unfold(0, UNCOUNTED + own + 1, own)[:streams].T
    return windows[:-1], windows[1:]


def _judge(result: Overfit, unit: str) -> Finding:
    steps = len(result.losses[result.rate])
    what = f"{result.characters:,} {unit}s"
    if result.lowest < LEARNT:
        return ok(f"{what} learnt by heart in {steps} steps: {result.lowest:.3f} nats")
    text = f"{what} are not learnt by heart: {result.lowest:.3g} nats after {steps} steps at the best learning rate"
    if result.is_cut_short:
        return warning(f"{text}; the time was up, this says nothing: fewer --layers or --hidden units can be checked")
    if result.lowest < HALF_LEARNT:
        return warning(f"{text}: it learns, but slowly; more --hidden units or another --init would help")
    return failure(f"{text}: something keeps it from learning; try another --init, --activation, or fewer --layers")


def _draw(result: Overfit, unit: str) -> Figure:
    drawn, (axes,) = figure(title=f"Learning {result.characters:,} {unit}s by heart")
    for rate, losses in result.losses.items():
        axes.plot(range(1, len(losses) + 1), losses, label=f"Adam, learning rate {rate:g}")
    axes.axhline(LEARNT, color=COLOURS[7], linestyle="--", label=f"learnt: below {LEARNT:g}")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(f"training loss, nats per {unit}")
    legend(axes)
    return drawn
