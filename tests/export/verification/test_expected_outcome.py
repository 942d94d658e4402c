"""An outcome on an edge between two characters is accepted, and no other one that differs."""

import numpy as np
import pytest

from export.verification.expected_outcome import Choice


@pytest.mark.parametrize("outcome", [1, 2])
def test_a_sum_that_lies_on_top_p_may_fall_on_either_side_of_it(outcome: int) -> None:
    """Two of three characters have exactly four fifths: a rounding decides whether the third is kept."""
    logits = np.log(np.array([0.5, 0.3, 0.2]))
    choice = Choice(forced=-1, uniform=0.9, temperature=1.0, top_k=3, top_p=0.8)
    assert choice.accepts(logits, outcome, 1e-5)[1]
    assert not Choice(forced=-1, uniform=0.9, temperature=1.0, top_k=3, top_p=0.79).accepts(logits, 2, 1e-5)[1]
