"""What a comparison found, and whether two correct implementations may differ so."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bundle.manifest import Precision

__all__ = ["TOLERANCES", "Tolerance", "Verification"]


@dataclass(frozen=True)
class Tolerance:
    """How two correct implementations may differ.

    Attributes:
        rows: share of the compared rows that may be further apart than roundings.
        outcomes: share of the outcomes that may differ.
        rounding: what roundings of a logit, a log-probability or a state come to within a run.
        edge: what they come to in a cumulated probability.
        batch: by how much a row may depend on who shares the batch.
    """

    rows: float
    outcomes: float
    rounding: float = 1e-3
    edge: float = 1e-5
    batch: float = 0.0


# In float32 a trained model showed 4e-5 after 48 steps (its logits reach 20); a wrong weight or gate shows more than
# 0.1. Recurrent weights that amplify may take a row beyond the roundings now and then.
# In 8 bits all sums are exact, and most rows agree as in float32. But the last bit of a sigmoid may move an input of
# the next matmul by a whole level of 1/127, and the row with it: of a trained LSTM 2x512 2 % of the rows. A wrong
# weight, scale or gate moves every row.
# The graphs for a device take up to 64 steps in a run: recurrent weights that amplify (eight times those of a new LSTM)
# took 18 % of the rows beyond the roundings there, and none in 16 steps.
# In 16 bits a number is off by up to 2**-12 of itself. Trained models (an LSTM, a GRU and an RNN 2x128) showed 0.004 in
# a state after 64 steps and 0.006 in logits, an untrained LSTM 0.008. The CPU provider keeps some of the roundings, and
# does not pack such weights: so a row's bits depend on the batch there, and a number may fall on another side of a
# rounding.
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(rows=0.005, outcomes=0.0),
    "int8": Tolerance(rows=0.25, outcomes=0.002),
    "fp32-cuda": Tolerance(rows=0.25, outcomes=0.002),
    "fp16-cuda": Tolerance(rows=0.25, outcomes=0.002, rounding=0.01, edge=0.01, batch=0.02),
}
# Roundings grow with the numbers: both bounds are for logits and states up to this, and wider in proportion beyond it.
USUAL = 20.0


@dataclass
class Verification:
    """What was found for one file, and what is wrong: nothing, if `failures` is empty.

    Attributes:
        largest: difference of a logit, log-probability or state.
        rows, moved: rows of such values that were compared, and those of them that differ by more than roundings.
        outcomes, edges, different: compared, accepted on an edge between two characters, and not accepted.
    """

    file: str
    tolerance: Tolerance
    largest: float = 0.0
    rows: int = 0
    moved: int = 0
    outcomes: int = 0
    edges: int = 0
    different: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.failures

    def compare(self, found: NDArray[np.generic], expected: Tensor) -> None:
        """Takes in values [B] or [B, N] and what they should be."""
        exact = expected.double().numpy().reshape(len(found), -1)
        apart = np.abs(np.asarray(found, np.float64).reshape(exact.shape) - exact).max(1)
        # NaN is never larger than anything.
        apart = np.where(np.isfinite(apart), apart, np.inf)
        self.largest = max(self.largest, float(apart.max()))
        self.rows += len(apart)
        self.moved += int((apart > self.tolerance.rounding * _beyond_usual(exact)).sum())

    def edges_of(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of rows of logits [B, V] how far a random number may lie beyond a character's share, [B]."""
        return self.tolerance.edge * _beyond_usual(logits)

    def conclude(self) -> "Verification":
        if self.largest == np.inf:
            self.failures.append("values that are not finite")
        if self.moved > self.tolerance.rows * self.rows:
            self.failures.append(f"{self.moved} of {self.rows} rows differ by more than {self.tolerance.rounding:g}")
        if self.different > self.tolerance.outcomes * self.outcomes:
            self.failures.append(f"{self.different} of {self.outcomes} outcomes are not what torch's logits lead to")
        return self

    def __str__(self) -> str:
        text = f"{self.file}: largest difference {self.largest:.1e}, {self.moved} of {self.rows:,} rows beyond rounding"
        if self.outcomes:
            text += f"; {self.outcomes:,} outcomes, {self.edges} on an edge, {self.different} different"
        return "\n  FAILED: ".join([text, *self.failures])


def _beyond_usual(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of rows [B, N] the factor [B] by which roundings may be larger."""
    return np.fmax(1, np.abs(values).max(1) / USUAL)
