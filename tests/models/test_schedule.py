"""A time budget becomes steps, and the learning rate fits it."""

import pytest

from models.schedule import TooShort, learning_rate, plan_for_minutes, plan_for_steps


def test_the_rate_rises_to_the_peak_and_falls_to_nothing() -> None:
    rates = [learning_rate(step, 1.0, warmup=10, budget=1000) for step in range(1001)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3], rel=1e-3)
    assert max(rates) == pytest.approx(1.0, rel=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[1000] == pytest.approx(0.0, abs=1e-6)


def test_a_short_run_still_reaches_its_peak() -> None:
    assert max(learning_rate(step, 1.0, warmup=100, budget=20) for step in range(20)) > 0.9


def test_setting_the_budget_hardly_moves_the_rate() -> None:
    before = learning_rate(60, 1.0, warmup=50, budget=None)
    assert learning_rate(60, 1.0, warmup=50, budget=1000) == pytest.approx(before, rel=0.01)


def test_the_planned_time_is_not_more_than_was_given() -> None:
    plan = plan_for_minutes(2, spent=10, steps_done=300, step_seconds=0.02, check_seconds=1.5, final_seconds=8)
    checks = plan.budget // plan.check_every
    seconds = 10 + (plan.budget - 300) * 0.02 + checks * 1.5 + 8
    assert 110 < seconds < 120


def test_too_little_time_names_a_time_that_would_do() -> None:
    with pytest.raises(TooShort, match=r"--minutes 0\.2 is too short.*--minutes 1\.4 would do"):
        plan_for_minutes(0.2, spent=20, steps_done=1, step_seconds=1, check_seconds=2, final_seconds=20)


def test_steps_are_checked_some_twenty_times() -> None:
    assert plan_for_steps(1000) == (1000, 50)
    assert plan_for_steps(3) == (3, 1)
