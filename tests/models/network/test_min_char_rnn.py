"""The preset min-char-rnn is the program of the lectures, update for update."""

from pathlib import Path

import numpy as np
import pytest

from models.data.corpus import Corpus, open_corpus
from models.runs.start import new_trainer
from models.train import main
from models.training.settings import TrainSettings
from models.training.trainer import Trainer
from tests.models.lecture import Program, Weights

UPDATES = 200
LICENCE = (Path(__file__).parents[3] / "LICENSE").read_text()
# The lecture's names.
NAMES = {
    "U": "layers.0.weight_ih",
    "W": "layers.0.weight_hh",
    "b": "layers.0.bias_ih",
    "V": "head.weight",
    "c": "head.bias",
}


@pytest.fixture
def begun(cache: Path, tmp_path: Path, text: str) -> tuple[Trainer, Program]:
    """Both sides before the first update, from equal weights."""
    file = tmp_path / "text.txt"
    file.write_text(text)
    settings = TrainSettings(
        data=str(file), out=tmp_path / "run", preset="min-char-rnn", precision="fp64", split="1", steps=UPDATES
    )
    corpus: Corpus = open_corpus(settings.data, split=settings.split)
    trainer = new_trainer(settings, corpus)
    steps = min(25, len(text) - 1)
    return trainer, Program(_weights(trainer), corpus.ids.astype(int), steps, settings.learning_rate)


def _weights(trainer: Trainer) -> Weights:
    return {name: trainer.model.get_parameter(ours).detach().numpy().copy() for name, ours in NAMES.items()}


def _memory(trainer: Trainer) -> Weights:
    kept = trainer.optimizer.state
    return {name: kept[trainer.model.get_parameter(ours)]["sum"].numpy().copy() for name, ours in NAMES.items()}


@pytest.mark.parametrize("text", ["hello"])
def test_hello_has_the_lectures_loss_at_each_update(begun: tuple[Trainer, Program], text: str) -> None:
    trainer, program = begun
    expected = [program.update() for _ in range(UPDATES)]
    found = [trainer.train_step(0.1).loss * program.steps for _ in range(UPDATES)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert expected[0] == pytest.approx(4 * np.log(4), rel=0.01)
    assert expected[-1] < 0.01
    assert trainer.guard.statistics.skipped == 0


@pytest.mark.parametrize("text", [LICENCE], ids=["licence"])
def test_a_real_text_has_the_lectures_loss_and_weights_after_each_update(
    begun: tuple[Trainer, Program], text: str
) -> None:
    """On it the program is chaotic: its own losses differ by 1e-6 after some 20 updates, and by a tenth after 100, if a
    weight differs by 1e-16 at first. So both sides begin each update with the same numbers."""
    trainer, program = begun
    for number in range(UPDATES):
        if number:
            program.weights, program.memory = _weights(trainer), _memory(trainer)
            program.h = trainer.state[0][0].numpy().copy()
        expected = program.update()
        assert trainer.train_step(0.1).loss * program.steps == pytest.approx(expected, rel=1e-9)
        for name, matrix in _weights(trainer).items():
            np.testing.assert_allclose(matrix, program.weights[name], rtol=0, atol=1e-9)
    assert trainer.streams.windows * 4 < UPDATES  # the text's end, and what comes after it, is part of this


@pytest.mark.parametrize("text", [LICENCE], ids=["licence"])
def test_a_real_text_begins_with_the_lectures_losses(begun: tuple[Trainer, Program], text: str) -> None:
    trainer, program = begun
    for _ in range(15):
        assert trainer.train_step(0.1).loss * program.steps == pytest.approx(program.update(), rel=1e-6)


def test_hello_is_learnt_by_heart_from_the_command_line(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("hello")
    flags = ["--preset", "min-char-rnn", "--split", "1", "--steps", "200"]
    assert main(["--data", str(text), "--out", str(tmp_path / "run"), *flags]) == 0
    assert "nothing was held out" in capsys.readouterr().out
