"""The result of a comparison, and by how much two correct implementations may differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bundle.manifest import Precision

__all__ = ["TOLERANCES", "Tolerance", "Verification"]


@dataclass(frozen=True)
class Tolerance:
    """How much two correct implementations may differ.

    Attributes:
        rows: share of the compared rows that may differ by more than roundings.
        outcomes: share of the outcomes that may differ.
        rounding: difference of a logit, log-probability or state that roundings make within a run.
        edge: difference that they make in a cumulative probability.
        batch: difference of a row's numbers that the other rows of its batch may make.
    """

    rows: float
    outcomes: float
    rounding: float = 1e-3
    edge: float = 1e-5
    batch: float = 0.0


# In float32 a trained model differed by 4e-5 after 48 steps (its logits reach 20), and with a wrong weight or gate by
# more than 0.1. Recurrent weights that amplify may sometimes take a row beyond the roundings.
# In 8 bits all sums are exact, and most rows agree as in float32. But the last bit of a sigmoid may move an input of
# the next matmul by a whole level of 1/127, and the row with it: 2 % of the rows of a trained LSTM 2x512. A wrong
# weight, scale or gate moves every row.
# The graphs for a device run up to 64 steps: recurrent weights that amplify (eight times those of a new LSTM) took 18 %
# of the rows beyond the roundings there, and none in 16 steps.
# In 16 bits a number is off by up to 2**-12 of itself. Trained models (an LSTM, a GRU and an RNN 2x128) differed by
# 0.004 in a state after 64 steps and by 0.006 in logits, an untrained LSTM by 0.008. The CPU provider keeps some of the
# roundings and does not pack such weights: so there a row's bits depend on the batch, and a number may be rounded the
# other way.
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(rows=0.005, outcomes=0.0),
    "int8": Tolerance(rows=0.25, outcomes=0.002),
    "fp32-cuda": Tolerance(rows=0.25, outcomes=0.002),
    "fp16-cuda": Tolerance(rows=0.25, outcomes=0.002, rounding=0.01, edge=0.01, batch=0.02),
}
# Roundings grow with the numbers: both bounds hold for logits and states up to this, and widen in proportion beyond it.
USUAL_MAGNITUDE = 20.0


@dataclass
class Verification:
    """The result of comparing one file, which is correct if `failures` is empty.

    Attributes:
        largest_difference: of a logit, log-probability or state.
        rows, moved_rows: rows of such values that were compared, and those that differ by more than roundings.
        outcomes, edge_outcomes, wrong_outcomes: outcomes that were compared, those accepted on an edge between two
            characters, and those not accepted.
    """

    file: str
    tolerance: Tolerance
    largest_difference: float = 0.0
    rows: int = 0
    moved_rows: int = 0
    outcomes: int = 0
    edge_outcomes: int = 0
    wrong_outcomes: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def has_passed(self) -> bool:
        return not self.failures

    def compare(self, found: NDArray[np.generic], expected: Tensor) -> None:
        """Take in values [B] or [B, N] and their expected values."""
        exact = expected.double().numpy().reshape(len(found), -1)
        differences = np.abs(np.asarray(found, np.float64).reshape(exact.shape) - exact).max(1)
        # NaN is never larger than anything.
        differences = np.where(np.isfinite(differences), differences, np.inf)
        self.largest_difference = max(self.largest_difference, float(differences.max()))
        self.rows += len(differences)
        self.moved_rows += int((differences > self.tolerance.rounding * _rounding_factors(exact)).sum())

    def compare_states(self, found: Mapping[str, NDArray[np.generic]], expected: Sequence[Tensor]) -> None:
        for array, tensor in zip(found.values(), expected, strict=True):
            self.compare(array, tensor)

    def count_outcome(self, is_expected: bool, is_accepted: bool) -> None:
        self.outcomes += 1
        self.edge_outcomes += is_accepted and not is_expected
        self.wrong_outcomes += not is_accepted

    def outcome_margins(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far a random number may lie outside a character's share, [B], for rows of logits [B, V]."""
        return self.tolerance.edge * _rounding_factors(logits)

    def conclude(self) -> "Verification":
        """Add the failures of the whole file, and return this result."""
        if self.largest_difference == np.inf:
            self.failures.append("values that are not finite")
        if self.moved_rows > self.tolerance.rows * self.rows:
            self.failures.append(
                f"{self.moved_rows:,} of {self.rows:,} rows of numbers differ from torch's by more than "
                f"{self.tolerance.rounding:g}, at most {_percent(self.tolerance.rows)} may"
            )
        if self.wrong_outcomes > self.tolerance.outcomes * self.outcomes:
            self.failures.append(
                f"{self.wrong_outcomes:,} of {self.outcomes:,} characters are not what torch's logits lead to, "
                f"{_least(self.tolerance.outcomes)} must be"
            )
        return self

    def __str__(self) -> str:
        """Tell how much agrees, how much must, and each failure in a line of its own."""
        allowed, close = self.tolerance, self.rows - self.moved_rows
        text = f"{self.file}: {'within' if self.has_passed else 'NOT within'} tolerance"
        if self.rows:
            text += f": {close:,} of {self.rows:,} rows of numbers are torch's to {allowed.rounding:g} "
            text += f"({_least(allowed.rows)} must be), largest difference {self.largest_difference:.1e}"
        if self.outcomes:
            text += f"; {self.outcomes - self.wrong_outcomes:,} of {self.outcomes:,} characters are torch's "
            text += f"({_least(allowed.outcomes)} must be)"
        return "\n  FAILED: ".join([text, *self.failures])


def _least(tolerated: float) -> str:
    """Return in words how much must agree where a share may differ."""
    return f"at least {_percent(1 - tolerated)}" if tolerated else "all"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _rounding_factors(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the factor [B] by which roundings may be larger than usual in each row of values [B, N]."""
    return np.fmax(1, np.abs(values).max(1) / USUAL_MAGNITUDE)
