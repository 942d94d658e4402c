"""The validation loss is the one that a single reader of the whole text has."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.evaluate import main
from models.evaluation.losses import carried_nats
from models.network.char_lm import CharLM, ModelConfig
from models.training.checkpoint import load
from tests.models.conftest import flags_of


@torch.inference_mode()
def _single_reader(model: CharLM, ids: np.ndarray, start: int) -> float:
    text = torch.from_numpy(np.concatenate([[start], ids]))[:, None]
    logits, _ = model(text[:-1], model.initial_state(1))
    return nn.functional.cross_entropy(logits.flatten(0, 1), text[1:].flatten()).item()


def test_parallel_parts_equal_one_reader(train: Callable[..., Path], verse: Path, cell: dict[str, str]) -> None:
    trained = load(train("--steps", "300", "--learning-rate", "0.01", *flags_of(cell)))
    ids = trained.vocabulary.encode(verse.read_text())
    single = _single_reader(trained.model, ids, start=0)
    assert carried_nats(trained.model, ids, start=0) == pytest.approx(single, abs=1e-3)


def test_every_character_counts_once() -> None:
    model = CharLM(ModelConfig(vocab=3, layers=1, hidden=4, embedding=2))
    nn.init.zeros_(model.head.weight)
    ids = np.random.default_rng(0).integers(3, size=5003)
    with torch.no_grad():
        expected = -torch.log_softmax(model.head.bias, 0)[torch.from_numpy(ids)].mean().item()
    assert carried_nats(model, ids, start=0) == pytest.approx(expected, abs=1e-6)


def test_the_first_character_is_predicted_from_the_start_character() -> None:
    model = CharLM(ModelConfig(vocab=5, layers=2, hidden=8, embedding=4)).eval()
    ids = np.array([3, 1, 4])
    assert carried_nats(model, ids, start=2) == pytest.approx(_single_reader(model, ids, start=2), abs=1e-6)


def test_training_goes_on_in_training_mode() -> None:
    model = CharLM(ModelConfig(vocab=5, hidden=8, embedding=4, dropout=0.5)).train()
    ids = np.random.default_rng(0).integers(5, size=600)
    assert carried_nats(model, ids, start=0) == carried_nats(model, ids, start=0)
    assert model.training


def test_a_run_is_evaluated_on_its_own_text_and_split(
    train: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The command finds what training stated, without being told the text."""
    run = train("--steps", "40", "--split", "0.8,0.1,0.1")
    capsys.readouterr()
    assert main([str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nats"] == pytest.approx(load(run).record.validation_nats["carried"], abs=1e-3)
    assert main([str(run), "--json", "--part", "test"]) == 0
    assert json.loads(capsys.readouterr().out)["nats"] != found["nats"]


def test_a_run_has_no_8_bits(train: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = train("--steps", "5")
    with pytest.raises(SystemExit) as end:
        main([str(run), "--precision", "int8"])
    assert end.value.code == 1
    assert "is a training run, which has fp32 only: export it" in capsys.readouterr().err


def test_a_text_that_changed_is_not_taken_for_the_runs(
    verse: Path, tmp_path: Path, train: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last tenth may be what was trained on."""
    text = tmp_path / "text.txt"
    text.write_text(verse.read_text())
    run = train("--data", str(text), "--steps", "1")
    text.write_text(verse.read_text()[:10_000])
    with pytest.raises(SystemExit):
        main([str(run)])
    assert f"{text} is not the run's text any more" in capsys.readouterr().err
    assert main([str(run), "--data", str(text)]) == 0
