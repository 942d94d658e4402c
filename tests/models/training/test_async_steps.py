"""Steps that are judged afterwards end where steps end that are judged at once, and wait for no number in between."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import models.train
from models.network.char_lm import CharLM
from models.training.async_steps import AsyncSteps
from models.training.batches import Streams
from models.training.checkpoint import read
from models.training.loss_guard import Diverged, StepOutcome
from models.training.settings import TrainSettings
from models.training.trainer import Trainer

VOCAB, POISON = 20, 20  # a character whose embedding is no number
NOISE = {"replace_rate": 0.1, "drop_rate": 0.1, "dropout": 0.2}
RUNS: dict[str, dict[str, Any]] = {
    "lstm": {"ema": 0.9, "norm": "batch", "restart_every": 3, "weight_decay": 0.1, **NOISE},
    "gru": {"cell": "gru", "optimizer": "rmsprop", "clip_value": 0.1, "norm": "layer", "locked_dropout": True},
    "rnn": {"cell": "rnn", "optimizer": "momentum", "loss": "sum"},
    "plain": {"cell": "rnn", "activation": "sigmoid", "optimizer": "adagrad"},
    "sgd": {"optimizer": "sgd", "residual": True},
}


def _settings(**given: Any) -> TrainSettings:
    sizes = {"layers": 2, "hidden": 16, "embedding": 8, "batch": 4, "sequence": 8}
    return TrainSettings(out=Path("run"), **{**sizes, **given})


def _text(*poisoned: int) -> NDArray[np.uint8]:
    text = np.random.default_rng(0).integers(0, VOCAB, 4000).astype(np.uint8)
    text[list(poisoned)] = POISON
    return text


def _trainer(text: NDArray[np.uint8], settings: TrainSettings) -> Trainer:
    torch.manual_seed(0)
    model = CharLM(settings.model_of(VOCAB + 1))
    with torch.no_grad():
        model.embedding.weight[POISON] = torch.nan
    return Trainer(model, Streams(text, VOCAB, settings, text=torch.from_numpy(text)), settings)


def _go(trainer: Trainer, steps: int, *, ahead: bool) -> list[StepOutcome]:
    """Takes steps, some of them measured, and settles after 1, 3, 4, ... of them."""
    outcomes: list[StepOutcome] = []
    stepping = AsyncSteps(trainer, outcomes.append, unjudged=ahead)
    for number in range(steps):
        stepping.step(1e-3, measure=number % 4 == 2)
        if number % 7 in (0, 3):
            stepping.settle()
    stepping.settle()
    return outcomes


def _same(one: Trainer, other: Trainer) -> bool:
    first, second = one.tensors(), other.tensors()
    equal = all(torch.equal(first[name].nan_to_num(7), second[name].nan_to_num(7)) for name in first)
    return (
        equal
        and first.keys() == second.keys()
        and (one.step, one.guard.statistics) == (other.step, other.guard.statistics)
    )


@pytest.mark.parametrize("poisoned", [(), (5,), (1003, 1100)], ids=["good", "first step bad", "two bad"])
@pytest.mark.parametrize("given", RUNS.values(), ids=RUNS.keys())
def test_they_end_where_steps_end_that_are_judged_at_once(given: dict[str, Any], poisoned: tuple[int, ...]) -> None:
    settings, text = _settings(**given), _text(*poisoned)
    judged, ahead = _trainer(text, settings), _trainer(text, settings)
    outcomes = _go(judged, 40, ahead=False)
    np.testing.assert_equal(_go(ahead, 40, ahead=True), outcomes)
    assert _same(ahead, judged)
    assert len(outcomes) == 40
    assert any(not outcome.taken for outcome in outcomes) == bool(poisoned)


def test_the_tenth_bad_step_in_a_row_ends_both_in_the_same_way() -> None:
    settings, text = _settings(), _text(*range(200, 400))
    told = []
    for ahead in (False, True):
        trainer = _trainer(text, settings)
        with pytest.raises(Diverged) as error:
            _go(trainer, 60, ahead=ahead)
        told.append((str(error.value), trainer.guard.statistics, trainer.step))
        weights = trainer.model.state_dict()
        assert all(tensor[:POISON].isfinite().all() for tensor in weights.values())
    assert told[0] == told[1]


def test_who_is_told_hears_of_a_bad_step_when_the_trainer_has_just_passed_it() -> None:
    trainer = _trainer(_text(20), _settings())
    heard: list[tuple[int, bool]] = []
    stepping = AsyncSteps(trainer, lambda outcome: heard.append((trainer.step, outcome.taken)), unjudged=True)
    for _ in range(5):
        stepping.step(1e-3, measure=False)
    stepping.settle()
    assert heard == [(1, True), (2, True), (3, False), (4, True), (5, True)]


def test_a_run_whose_steps_are_judged_afterwards_leaves_the_same_folder(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--steps", "130", "--dropout", "0.2", "--learning-rate", "0.01", "--patience", "3")
    one = train(*flags, name="one")
    monkeypatch.setattr(models.train, "AsyncSteps", partial(AsyncSteps, unjudged=True))
    other = train(*flags, name="other")
    for name in ("last.json", "best.json"):
        first, second = (read(run / name)[1] for run in (one, other))
        assert all(torch.equal(first[key], second[key]) for key in first)
    metrics = [[json.loads(line) | {"seconds": 0} for line in _lines(run)] for run in (one, other)]
    assert metrics[0] == metrics[1]


def _lines(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize("given", RUNS.values(), ids=RUNS.keys())
def test_no_step_asks_for_a_number_that_a_device_has_not_yet_computed(given: dict[str, Any]) -> None:
    """Fake tensors have shapes and no numbers: whoever asks for one fails."""
    settings, text = _settings(**given), _text()
    with FakeTensorMode(allow_non_fake_inputs=True):
        there = torch.empty(len(text), dtype=torch.uint8)
        trainer = Trainer(CharLM(settings.model_of(VOCAB)), Streams(text, VOCAB, settings, text=there), settings)
        stepping = AsyncSteps(trainer, lambda outcome: None, unjudged=True)
        for _ in range(6):
            stepping.step(1e-3, measure=True)
        with pytest.raises(DataDependentOutputException):
            stepping.settle()
