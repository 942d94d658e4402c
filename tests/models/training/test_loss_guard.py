"""Bad steps are skipped, ordinary noise is not, and what stays bad ends the run."""

import math

import numpy as np
import pytest

from models.training.loss_guard import Diverged, LossGuard


def _settled(chars: int, noise: float, steps: int = 300) -> LossGuard:
    guard = LossGuard(chars)
    for step, loss in enumerate(np.random.default_rng(0).normal(1.5, noise, steps)):
        assert guard.judge(step, float(loss), 1.0)
    return guard


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (math.inf, 1.0), (1.5, math.nan), (1.5, math.inf), (6.0, 1.0)])
def test_a_bad_step_is_skipped_and_counted_and_the_next_one_is_taken(bad: tuple[float, float]) -> None:
    guard = _settled(8192, noise=0.02)
    assert not guard.judge(300, *bad)
    assert guard.statistics.skipped == 1
    assert guard.judge(301, 1.5, 1.0)
    assert guard.statistics.in_a_row == 0


def test_one_stream_of_25_characters_has_no_spikes_by_chance() -> None:
    rng = np.random.default_rng(0)
    guard = LossGuard(25)
    # A character's loss is about exponential: its standard deviation is its mean.
    for step, losses in enumerate(rng.exponential(2.0, (20_000, 25))):
        assert guard.judge(step, float(losses.mean()), 1.0)


def test_losses_that_rise_at_first_are_not_spikes() -> None:
    guard = LossGuard(25)
    assert all(guard.judge(step, loss, 1.0) for step, loss in enumerate([4.2, 3.9, 10.2, 8.5, 12.0]))


def test_a_text_that_changes_for_good_is_learnt_from() -> None:
    guard = _settled(8192, noise=0.02)
    taken = [guard.judge(step, 4.0, 1.0) for step in range(20)]
    assert all(taken[10:])


@pytest.mark.parametrize("loss", [math.nan, 1e6])
def test_ten_bad_steps_in_a_row_are_the_end(loss: float) -> None:
    guard = _settled(8192, noise=0.02)
    for step in range(9):
        assert not guard.judge(step, loss, 1.0)
    with pytest.raises(Diverged, match="step 9: ten steps in a row"):
        guard.judge(9, loss, 1.0)
