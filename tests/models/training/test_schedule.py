"""A time budget becomes steps, and the learning rate fits it."""

import pytest

from models.training.schedule import RateSchedule, TooShort, plan_for_minutes, plan_for_steps


def test_the_rate_rises_to_the_peak_and_falls_to_nothing() -> None:
    rates = [RateSchedule("cosine", 1.0, warmup=10).rate(step, budget=1000) for step in range(1001)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3], rel=1e-3)
    assert max(rates) == pytest.approx(1.0, rel=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[1000] == pytest.approx(0.0, abs=1e-6)


def test_a_constant_rate_stays() -> None:
    assert {RateSchedule("constant", 0.1).rate(step, budget) for step in range(50) for budget in (None, 40)} == {0.1}


def test_an_exponential_rate_halves_in_equal_times() -> None:
    course = RateSchedule("exponential", 1.0, decay=0.25)
    assert [course.rate(step, 100) for step in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.25])


def test_a_rate_in_steps_falls_as_often_as_was_said() -> None:
    course = RateSchedule("step", 1.0, decay=1e-3, decay_steps=3)
    rates = [course.rate(step, 80) for step in range(81)]
    assert sorted(set(rates), reverse=True) == pytest.approx([1.0, 0.1, 0.01, 0.001])
    assert [rates.index(rate) for rate in sorted(set(rates), reverse=True)] == [0, 20, 40, 60]


def test_a_short_run_still_reaches_its_peak() -> None:
    assert max(RateSchedule("cosine", 1.0, warmup=100).rate(step, budget=20) for step in range(20)) > 0.9


def test_setting_the_budget_hardly_moves_the_rate() -> None:
    course = RateSchedule("cosine", 1.0, warmup=50)
    assert course.rate(60, budget=1000) == pytest.approx(course.rate(60, budget=None), rel=0.01)


def test_the_planned_time_is_not_more_than_was_given() -> None:
    plan = plan_for_minutes(2, spent=10, steps_done=300, step_seconds=0.02, check_seconds=1.5, final_seconds=8)
    checks = plan.budget // plan.check_every
    seconds = 10 + (plan.budget - 300) * 0.02 + checks * 1.5 + 8
    assert 110 < seconds < 120


def test_time_allows_no_more_steps_than_something_else_does() -> None:
    times = {"spent": 10.0, "steps_done": 300, "step_seconds": 0.02, "check_seconds": 1.5, "final_seconds": 8.0}
    assert plan_for_minutes(2, **times, most_steps=1000).budget == 1000
    assert plan_for_minutes(2, **times, most_steps=10**6) == plan_for_minutes(2, **times)


def test_too_little_time_names_a_time_that_would_do() -> None:
    with pytest.raises(TooShort, match=r"--minutes 0\.2 is too short.*--minutes 1\.4 would do"):
        plan_for_minutes(0.2, spent=20, steps_done=1, step_seconds=1, check_seconds=2, final_seconds=20)


def test_steps_are_checked_some_twenty_times() -> None:
    assert plan_for_steps(1000) == (1000, 50)
    assert plan_for_steps(3) == (3, 1)
