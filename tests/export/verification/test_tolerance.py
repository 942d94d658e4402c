"""A newcomer reads of a verification what agrees and how much must, and overlooks no failure."""

import numpy as np
import torch

from export.verification.tolerance import TOLERANCES, Verification


def result_with(moved_rows: int) -> Verification:
    """A thousand rows, of which some differ by 0.01, and a thousand characters, of which one differs."""
    result = Verification("decode.int8.onnx", TOLERANCES["int8"])
    found = np.zeros((1000, 3), np.float32)
    found[:moved_rows] = 0.01
    result.compare(found, torch.zeros(1000, 3))
    for number in range(1000):
        result.count_outcome(number > 0, number > 0)
    return result.conclude()


def test_differences_within_tolerance_do_not_read_like_an_error() -> None:
    assert str(result_with(7)) == (
        "decode.int8.onnx: within tolerance: "
        "993 of 1,000 rows of numbers are torch's to 0.001 (at least 75 % must be), largest difference 1.0e-02; "
        "999 of 1,000 characters are torch's (at least 99.8 % must be)"
    )


def test_a_failure_says_what_was_found_and_what_is_allowed() -> None:
    facts, *failures = str(result_with(300)).splitlines()
    assert facts.startswith("decode.int8.onnx: NOT within tolerance: 700 of 1,000 rows")
    assert failures == [
        "  FAILED: 300 of 1,000 rows of numbers differ from torch's by more than 0.001, at most 25 % may"
    ]
