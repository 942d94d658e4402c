"""The outcome that a step should have, in float64 and without the tricks of the graphs."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from models.network.generate import LARGEST_UNIFORM

__all__ = ["Choice", "probabilities"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """The inputs by which one row's outcome is decided in a step: see docs/design.md, section 5."""

    forced: int
    uniform: float
    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def accepts(self, logits: Floats, outcome: int, edge: float) -> tuple[bool, bool]:
        """Return whether the outcome is the expected one for biased logits [V], and whether it is one within `edge`.

        `edge` is a distance between a random number and a character's share of the probability, between two logits for
        a greedy row, and between a character's probability and a limit, relative to the limit.
        """
        if self.forced >= 0:
            return outcome == self.forced, outcome == self.forced
        if self.temperature == 0:
            return outcome == logits.argmax(), bool(logits.max() - logits[outcome] <= edge)
        exact, distance = self._distance(logits, outcome)
        if exact:
            return True, True
        # A limit that lies on a character's probability, or on a sum of them, may fall on either side of it.
        shifts = product((0.0, -edge, edge), repeat=2)
        return False, min(distance, *(self._distance(logits, outcome, *pair)[1] for pair in shifts)) <= edge

    def _distance(self, logits: Floats, outcome: int, shift: float = 0.0, sum_shift: float = 0.0) -> tuple[bool, float]:
        """Return whether the outcome is the expected one, and how far the random number lies outside its share."""
        cdf = probabilities(logits, self, shift, sum_shift).cumsum()
        if not cdf[-1] > 0:  # shifted limits may leave nothing, and values that are not finite are no distribution
            return False, np.inf
        threshold = min(self.uniform, LARGEST_UNIFORM) * cdf[-1]
        low = cdf[outcome - 1] if outcome else 0.0
        distance = max(low - threshold, threshold - cdf[outcome], 0.0) / cdf[-1]
        return int((cdf <= threshold).sum()) == outcome, float(distance)


def probabilities(logits: Floats, choice: Choice, shift: float = 0.0, sum_shift: float = 0.0) -> Floats:
    """Return probabilities [V] after temperature and limits, not renormalised.

    The limits are multiplied by 1 + shift, and the sum that top_p asks for by 1 + sum_shift.
    """
    weights = np.exp((logits - logits.max()) / choice.temperature)
    p = weights / weights.sum()
    kept = np.isfinite(p)
    if 0 < choice.top_k < len(p):
        kept = p >= np.sort(p)[-choice.top_k] * (1 + shift)
    if choice.top_p < 1 and kept.any():
        inside = np.sort(p[kept])[::-1]
        needed = int((inside.cumsum() < choice.top_p * (1 + sum_shift) * inside.sum()).sum())
        kept &= p >= inside[min(needed, len(inside) - 1)] * (1 + shift)
    kept &= p >= choice.min_p * p.max() * (1 + shift)
    return np.where(kept, p, 0.0)
