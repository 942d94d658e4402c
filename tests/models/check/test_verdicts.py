"""Each check tells a sound configuration from one that lectures warn of."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.check.checks import activations, gap, initial_loss, overfit, rate, reach, updates
from models.check.checks.rate import RangeTest
from models.check.outcome import Outcome, Verdict
from models.check.subject import Subject
from models.check.trial import History, read_history
from models.reporting.curves import Series
from models.run_folder import METRICS

Make = Callable[..., Subject]


def _texts(outcome: Outcome, verdict: Verdict) -> str:
    return "\n".join(finding.text for finding in outcome.findings if finding.verdict == verdict)


def test_a_model_without_opinions_begins_at_ln_v_and_a_penalty_raises_it(subject: Make) -> None:
    outcome = initial_loss.check(subject())
    assert outcome.verdict == Verdict.OK
    assert outcome.figures["nats"] == pytest.approx(np.log(subject().config.vocab), rel=0.05)
    assert outcome.figures["penalised"]["--l2 0.001"] > outcome.figures["nats"]


def test_of_bytes_nothing_is_said_to_be_of_characters(subject: Make) -> None:
    outcome = initial_loss.check(subject(vocabulary="bytes"))
    assert outcome.draw
    assert outcome.draw().axes[0].get_xlabel() == "loss and penalty, nats per byte"
    assert "all bytes alike" in outcome.findings[0].text


def test_large_weights_begin_with_opinions(subject: Make) -> None:
    outcome = initial_loss.check(subject(init="normal", init_scale=3.0))
    assert "opinions" in _texts(outcome, Verdict.FAILED)


def test_zeros_are_found_by_what_they_do(subject: Make) -> None:
    checked = subject(init="zeros", steps=10)
    assert "stay alike" in _texts(activations.check(checked), Verdict.FAILED)
    assert "no gradient arrives" in _texts(reach.check(checked), Verdict.FAILED)
    assert "moved" in _texts(updates.check(checked), Verdict.FAILED)


def test_a_sound_model_learns_twenty_lines_by_heart(subject: Make) -> None:
    outcome = overfit.check(subject())
    assert outcome.verdict == Verdict.OK
    assert outcome.figures["nats"] < overfit.LEARNT


def test_too_high_a_learning_rate_shows_in_the_updates(subject: Make) -> None:
    assert updates.check(subject(steps=40)).verdict == Verdict.OK
    outcome = updates.check(subject(steps=40, optimizer="sgd", learning_rate=1000.0, clip_norm=0.0))
    assert "the loss rose" in _texts(outcome, Verdict.FAILED)


def test_an_rnn_s_gradients_vanish_and_an_lstm_reaches_further(subject: Make) -> None:
    rnn = reach.check(subject(cell="rnn", steps=5))
    assert "--cell lstm" in _texts(rnn, Verdict.WARNING)
    at_lag_20 = {name: rnn.figures[name]["shares"][20] for name in ("rnn", "lstm")}
    assert at_lag_20["lstm"] > 10 * at_lag_20["rnn"]


def _valley(bottom: float) -> RangeTest:
    """Losses that fall from 4 to 2 nats at `bottom`, and rise from 10 times that on."""
    rates = np.geomspace(1e-5, 1, 400)
    decades = np.log10(rates / bottom)
    losses = np.where(decades < 0, np.maximum(2.0, 2 - decades), 2 + 2 * np.maximum(0, decades - 1))
    return RangeTest(rates, losses.clip(max=4.0), len(rates))


def test_the_largest_usable_rate_is_where_the_loss_begins_to_rise() -> None:
    test = _valley(1e-2)
    assert 0.1 < test.largest < 0.2
    assert test.suggestion == pytest.approx(test.largest / 20, rel=0.1)


@pytest.mark.parametrize(("chosen", "says"), [(5e-3, ""), (0.5, "is beyond"), (1e-5, "far below")])
def test_a_chosen_rate_is_judged_by_the_range(chosen: float, says: str) -> None:
    verdict, text = rate._judge(_valley(1e-2), chosen)
    assert verdict == (Verdict.WARNING if says else Verdict.OK)
    assert says in text


def test_a_range_test_of_a_real_model_suggests_a_rate_that_trains_it(subject: Make) -> None:
    outcome = rate.check(subject(learning_rate=1e-2))
    assert outcome.verdict == Verdict.OK
    assert 1e-3 < outcome.figures["suggestion"] < 0.1


def _judged(training: float, validation: float | None, history: History) -> tuple[Verdict, str]:
    findings = gap._judge(gap.Gap(training, validation, unigram=3.0), history, of_a_run=True)
    return max(findings, key=lambda finding: list(Verdict).index(finding.verdict))


def _history(*validation: float) -> History:
    points = [(step * 100, 0.0, nats) for step, nats in enumerate(validation, 1)]
    return History("a run", Series.of([]), Series.of(points), Series.of([]), {})


def _points(series: Series) -> tuple[list[float], list[float]]:
    return series.steps.tolist(), series.values.tolist()


def test_over_and_underfitting_are_told_from_the_losses() -> None:
    settled = _history(2.0, 1.7, 1.6, 1.595, 1.59)
    assert _judged(1.5, 1.55, settled)[0] == Verdict.OK
    assert "by heart" in _judged(1.2, 1.6, settled)[1]
    assert "learnt nothing" in _judged(3.1, 3.1, settled)[1]
    assert "nothing is held out" in _judged(1.5, None, settled)[1]
    verdict, text = _judged(1.5, 1.55, _history(2.0, 1.6, 1.5, 1.6, 1.7))
    assert verdict == Verdict.WARNING
    assert "risen from 1.500 at step 300" in text


def test_a_run_s_own_figures_are_used(tmp_path: Path) -> None:
    lines = ['{"step": 25, "seconds": 1, "loss": 3.0, "gradient_norm": 0.5, "update_ratio": 0.01}']
    (tmp_path / METRICS).write_text("\n".join([*lines, '{"step": 30, "seconds": 2, "validation": 2.5}']) + "\n")
    history = read_history(tmp_path)
    assert history is not None
    assert (_points(history.loss), _points(history.validation)) == (([25], [3.0]), ([30], [2.5]))
    assert {name: _points(ratios) for name, ratios in history.update_ratios.items()} == {"all weights": ([25], [0.01])}


def test_a_model_from_elsewhere_has_none(tmp_path: Path) -> None:
    assert read_history(tmp_path) is None
