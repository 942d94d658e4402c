"""A covering array: few rows in which every two values of different options meet at least once."""

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Pair", "Setting", "covering", "pairs"]

Setting = tuple[str, Any]  # an option and its value
Pair = frozenset[Setting]
CANDIDATES = 30  # rows that are made for each that is taken


def covering(options: Mapping[str, Sequence[Any]], left_out: frozenset[Pair], seed: int = 0) -> list[dict[str, Any]]:
    """Rows of all options, greedily (Cohen et al., 1997): each next one has the most new pairs of some candidates.

    Args:
        options: values of each.
        left_out: pairs that no row may have. Whatever the other options are, each must have a value that is allowed.
        seed: the same rows come of the same one.

    Returns:
        Rows that together have every other pair.
    """
    rng, rows = random.Random(seed), []
    missing = pairs(options) - left_out
    while missing:
        ordered = sorted(missing, key=_order)
        candidates = [_candidate(rng.choice(ordered), options, missing, left_out, rng) for _ in range(CANDIDATES)]
        best = max(candidates, key=lambda row: len(_pairs_of(row) & missing))
        missing -= _pairs_of(best)
        rows.append({name: best[name] for name in options})
    return rows


def pairs(options: Mapping[str, Sequence[Any]]) -> set[Pair]:
    """Every two values of different options."""
    settings = [[(name, value) for value in values] for name, values in options.items()]
    return {
        frozenset(pair) for one, other in itertools.combinations(settings, 2) for pair in itertools.product(one, other)
    }


def _pairs_of(row: Mapping[str, Any]) -> set[Pair]:
    return set(map(frozenset, itertools.combinations(row.items(), 2)))


def _candidate(
    first: Pair,
    options: Mapping[str, Sequence[Any]],
    missing: set[Pair],
    left_out: frozenset[Pair],
    rng: random.Random,
) -> dict[str, Any]:
    """Begins with a pair that is missing, and goes on in random order with what meets most values anew."""
    row = dict(sorted(first, key=str))
    for name in rng.sample(sorted(options.keys() - row.keys()), len(options) - len(row)):
        settings = [(name, value) for value in options[name]]
        met = {setting: {frozenset((setting, other)) for other in row.items()} for setting in settings}
        possible = [setting for setting in settings if not met[setting] & left_out]
        most = max(len(met[setting] & missing) for setting in possible)
        row |= [rng.choice([setting for setting in possible if len(met[setting] & missing) == most])]
    return row


def _order(pair: Pair) -> list[str]:
    """Sets have none that is the same in the next process."""
    return sorted(map(str, pair))
