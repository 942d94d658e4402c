"""The project's own runs, and what they let one expect of another one.

Of each preset there are runs of several lengths, each with a schedule of its own to its end: a loss half way through a
longer run is no loss of a shorter one. Between them the loss is interpolated in the logarithm of the characters trained
on; beyond them it goes on at the slope of the nearest two, towards longer runs for at most a factor of two, and towards
shorter ones all the way, with bounds that widen. A preset with one run has a slope that others had.
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
# By how much the bounds of a shorter run widen, as a share of the loss for each factor of e.
_SPREAD_BELOW = 0.05
_BEYOND = 2.0
# Nats that a run of a preset with one run loses where its characters are fewer by a factor of e. In pieces of the text:
# as the demo's runs. In stripes: as a GRU 1x768 with half a million characters, 1.7430 (docs/quality.md).
_SLOPES = {"tiny": 0.058, "shakespeare": 0.16, "best": 0.16}


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
    "shakespeare": (KnownRun(3.3e6, 1.4297, "tinyshakespeare"),),
    "best": (KnownRun(3.3e6, 1.4057, "tinyshakespeare"),),
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


def expect(preset: str, characters: float, packed: float, most: float = math.inf) -> Expectation:
    """Return the loss to expect of a preset after some characters of a text.

    Args:
        packed: what bz2 makes of the text, in nats a symbol; losses are taken to be in proportion to it.
        most: the loss of guessing, which no training ends above.
    """
    runs = KNOWN[preset]
    scale = packed / REFERENCE_PACKED
    nats = scale * _interpolate(preset, min(characters, runs[-1].characters * _BEYOND))
    # A text of another kind may be harder or easier than bz2 finds it.
    share = SPREAD + 0.25 * abs(math.log(scale))
    is_beyond = not runs[0].characters / 1.1 <= characters <= runs[-1].characters * 1.1
    wider = _SPREAD_BELOW * max(0.0, math.log(runs[0].characters / characters))
    low, high = nats * max(0.0, 1 - share - wider), nats * (1 + (2 if is_beyond else 1) * share + wider)
    return Expectation(min(nats, most), min(low, most), min(high, most), is_beyond)


def _interpolate(preset: str, characters: float) -> float:
    runs, place = KNOWN[preset], math.log(characters)
    if len(runs) == 1:
        return runs[0].nats + _SLOPES[preset] * max(0.0, math.log(runs[0].characters) - place)
    pairs = list(pairwise(runs))
    before, after = next((pair for pair in pairs if characters <= pair[1].characters), pairs[-1])
    first, second = math.log(before.characters), math.log(after.characters)
    return before.nats + (after.nats - before.nats) * (place - first) / (second - first)
