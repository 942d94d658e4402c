"""Texts that a small model can learn something from."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from charstream.settings import parse
from models.train import train_model
from models.training.settings import TrainSettings

WORDS = ("the", "a", "king", "queen", "fool", "speaks", "of", "sees", "no", "in", "night", "love", "crown,", "heart!")
# Sizes at which a run takes a second.
SMALL = (
    *("--layers", "1", "--hidden", "32", "--embedding", "8", "--batch", "8", "--sequence", "16"),
    *("--precision", "fp32"),
)
# Every kind of recurrent layer that there is, as `ModelConfig` has it.
CELLS = {
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
    "rnn": {"cell": "rnn"},
    "sigmoid-rnn": {"cell": "rnn", "activation": "sigmoid"},
}


@pytest.fixture(params=CELLS)
def cell(request: pytest.FixtureRequest) -> dict[str, str]:
    return CELLS[request.param]


def flags_of(cell: dict[str, str]) -> list[str]:
    return [text for name, value in cell.items() for text in (f"--{name}", value)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CHARSTREAM_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def verse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of some 20,000 characters, lines of a few words."""
    rng = random.Random(0)
    lines = (" ".join(rng.choices(WORDS, k=6)) for _ in range(700))
    path = tmp_path_factory.mktemp("texts") / "verse.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def train(verse: Path, tmp_path: Path) -> Callable[..., Path]:
    """Trains a small model on the verse, as the command does; returns the run's folder."""

    def run(*flags: str, name: str = "run") -> Path:
        folder = tmp_path / name
        given = ["--data", str(verse), "--out", str(folder), *SMALL, *flags]
        train_model(parse(TrainSettings, given, command="charstream train"))
        return folder

    return run
