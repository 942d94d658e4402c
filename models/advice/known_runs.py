"""The project's own runs, and what they let one expect of another one.

Of each preset there are runs of several lengths, each with a schedule of its own to its end: a loss half way through a
longer run is no loss of a shorter one. Between them the loss is interpolated in the logarithm of the characters trained
on; beyond them it goes on at the slope of the nearest two, for at most a factor of two. A preset with one run has a
slope that others had.
"""

import math
from itertools import pairwise
from typing import NamedTuple

__all__ = ["KNOWN", "REFERENCE_PACKED", "SPREAD", "Expectation", "KnownRun", "expect", "most_readings"]

# Of any preset: large models that read a text more often ended above (docs/decisions.md).
_MOST_READINGS = 3.0
# Characters of the parts that runs train on.
_TRAINING_PART = {"shakespeare": 4_551_515, "tinyshakespeare": 1_003_854}
# What bz2 makes of the text of most of these runs, tinyshakespeare, in nats a character (see `text_facts`).
REFERENCE_PACKED = 1.808
# How far runs of the table lie from each other that differ in their seed or their text alone, as a share of the loss.
SPREAD = 0.02
_BEYOND = 2.0
# Nats that a run loses where its characters are fewer by a factor of e: of the demo's runs before it read pieces of the
# text, from 3.0 to 6.9 millions.
_SLOPE = 0.11


class KnownRun(NamedTuple):
    """A run that was measured: characters trained on, readings of the text, and nats carried on its held-out part."""

    characters: float
    nats: float
    text: str


KNOWN: dict[str, tuple[KnownRun, ...]] = {
    "demo": (
        KnownRun(3.0e6, 1.5593, "shakespeare"),
        KnownRun(12.0e6, 1.4790, "shakespeare"),
    ),
    "tiny": (KnownRun(5.0e6, 1.5448, "tinyshakespeare"),),
    "shakespeare": (KnownRun(3.3e6, 1.4403, "tinyshakespeare"),),
    "best": (KnownRun(3.3e6, 1.4256, "tinyshakespeare"),),
}


def most_readings(preset: str) -> float:
    """Return how often a preset may read a text: as often as in a run of the table, or three times."""
    return max(_MOST_READINGS, *(run.characters / _TRAINING_PART[run.text] for run in KNOWN[preset]))


class Expectation(NamedTuple):
    """A loss to expect, in nats a symbol, with bounds; `is_beyond`: no run of the table was that short or that long."""

    nats: float
    low: float
    high: float
    is_beyond: bool


def expect(preset: str, characters: float, packed: float) -> Expectation:
    """Return the loss to expect of a preset after some characters of a text.

    Args:
        packed: what bz2 makes of the text, in nats a symbol; losses are taken to be in proportion to it.
    """
    runs = KNOWN[preset]
    nearest = min(max(characters, runs[0].characters / _BEYOND), runs[-1].characters * _BEYOND)
    scale = packed / REFERENCE_PACKED
    nats = scale * _interpolate(runs, nearest)
    # A text of another kind may be harder or easier than bz2 finds it.
    share = SPREAD + 0.25 * abs(math.log(scale))
    is_beyond = not runs[0].characters / 1.1 <= characters <= runs[-1].characters * 1.1
    return Expectation(nats, nats * (1 - share), nats * (1 + share * (2 if is_beyond else 1)), is_beyond)


def _interpolate(runs: tuple[KnownRun, ...], characters: float) -> float:
    place = math.log(characters)
    if len(runs) == 1:
        return runs[0].nats + _SLOPE * max(0.0, math.log(runs[0].characters) - place)
    pairs = list(pairwise(runs))
    before, after = next((pair for pair in pairs if characters <= pair[1].characters), pairs[-1])
    first, second = math.log(before.characters), math.log(after.characters)
    return before.nats + (after.nats - before.nats) * (place - first) / (second - first)
