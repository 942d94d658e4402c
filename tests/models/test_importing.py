"""A model that was trained elsewhere computes the same here, and what cannot be brought in is named."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from models.checkpoint import load
from models.importing import main

CHARS = "\n abcdefghij"
V = len(CHARS)


class Foreign(nn.Module):
    """As people write them."""

    def __init__(self, rnn: nn.Module, inputs: int, hidden: int, *, onehot: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.tok = None if onehot else nn.Embedding(V, inputs)
        self.body, self.out = rnn, nn.Linear(hidden, V, bias=bias)

    def forward(self, ids: Tensor) -> Tensor:
        x = nn.functional.one_hot(ids, V).float() if self.tok is None else self.tok(ids)
        return self.out(self.body(x)[0])


MODELS: dict[str, tuple[Callable[[], Foreign], tuple[str, ...]]] = {
    "lstm": (lambda: Foreign(nn.LSTM(5, 8, 2), 5, 8), ()),
    "lstm, embedding as large as hidden": (lambda: Foreign(nn.LSTM(8, 8, 2), 8, 8), ()),
    "lstm without biases": (lambda: Foreign(nn.LSTM(8, 8, 2, bias=False), 8, 8, bias=False), ()),
    "gru": (lambda: Foreign(nn.GRU(5, 8, 3), 5, 8), ()),
    "one-hot tanh": (lambda: Foreign(nn.RNN(V, 8), V, 8, onehot=True), ()),
    "relu": (lambda: Foreign(nn.RNN(5, 8, nonlinearity="relu"), 5, 8), ("--activation", "relu")),
}


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "chars.json"
    path.write_text(json.dumps(list(CHARS)))
    return path


def bring_in(file: Path, vocabulary: Path, *flags: str) -> Path:
    out = file.parent / "run"
    assert main([str(file), "--vocabulary", str(vocabulary), "--out", str(out), *flags]) == 0
    return out


@pytest.mark.parametrize("name", MODELS)
def test_what_was_trained_elsewhere_computes_the_same_here(name: str, tmp_path: Path, vocabulary: Path) -> None:
    make, flags = MODELS[name]
    torch.manual_seed(0)
    foreign = make().eval()
    torch.save(foreign.state_dict(), tmp_path / "model.pt")
    trained = load(bring_in(tmp_path / "model.pt", vocabulary, *flags))
    ids = torch.randint(V, (30, 4))
    with torch.no_grad():
        logits, _ = trained.model(ids, trained.model.initial_state(4))
        torch.testing.assert_close(logits, foreign(ids))
    assert (trained.vocabulary.symbols, trained.start_text) == (CHARS, "\n")


def test_the_state_dict_may_lie_inside_a_trainers_checkpoint(tmp_path: Path, vocabulary: Path) -> None:
    foreign = MODELS["gru"][0]()
    torch.save({"model_state": foreign.state_dict(), "epoch": 3, "config": {"hidden": 8}}, tmp_path / "ckpt.pt")
    assert load(bring_in(tmp_path / "ckpt.pt", vocabulary)).model.config.cell == "gru"


def test_safetensors_and_every_form_of_a_vocabulary(tmp_path: Path) -> None:
    foreign = MODELS["lstm"][0]()
    safetensors.torch.save_file(foreign.state_dict(), tmp_path / "model.safetensors")
    forms = {
        "object.json": json.dumps({char: number for number, char in enumerate(CHARS)}),
        "numbers.json": json.dumps(dict(enumerate(CHARS))),
        "text.txt": CHARS,
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        out = tmp_path / f"run of {len(name)}"
        assert main([str(tmp_path / "model.safetensors"), "--vocabulary", str(tmp_path / name), "--out", str(out)]) == 0
        assert load(out).vocabulary.symbols == CHARS


def test_a_text_has_the_vocabulary_of_its_characters(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(CHARS[::-1] * 3)
    torch.save(MODELS["lstm"][0]().state_dict(), tmp_path / "model.pt")
    assert main([str(tmp_path / "model.pt"), "--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run")]) == 0
    assert load(tmp_path / "run").vocabulary.symbols == CHARS


WRONG: dict[str, tuple[Callable[[], dict[str, object]], str]] = {
    "bidirectional": (lambda: Foreign(nn.LSTM(5, 8, bidirectional=True), 5, 16).state_dict(), "bidirectional"),
    "proj_size": (lambda: Foreign(nn.LSTM(5, 8, proj_size=4), 5, 4).state_dict(), "proj_size=0"),
    "no head": (
        lambda: {"e.weight": torch.zeros(V, 5), **nn.LSTM(5, 8).state_dict()},
        r"no head of \[12 characters, 8",
    ),
    "another vocabulary": (
        lambda: {"e.weight": torch.zeros(99, 5), "o.weight": torch.zeros(99, 8), **nn.LSTM(5, 8).state_dict()},
        r"o.weight \[99, 8\]; is it another vocabulary",
    ),
    "no embedding": (
        lambda: {"o.weight": torch.zeros(V, 8), **nn.LSTM(5, 8).state_dict()},
        r"found nothing, expected one embedding of \[12",
    ),
    "more than that": (
        lambda: {**Foreign(nn.LSTM(5, 8), 5, 8).state_dict(), "norm.weight": torch.zeros(8)},
        r"norm.weight \[8\]",
    ),
    "no recurrent layer": (lambda: nn.Linear(8, V).state_dict(), "expected are nn.Embedding or one-hot"),
    "layers in several modules": (
        lambda: {
            **{f"a.{name}": tensor for name, tensor in nn.GRU(5, 8).state_dict().items()},
            **{f"b.{name}": tensor for name, tensor in nn.GRU(8, 8).state_dict().items()},
        },
        "several modules, a, b",
    ),
    "no tensors": (lambda: {"a": 1}, "expected one state dict"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_brought_in_is_named_in_one_line(
    name: str, tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected = WRONG[name]
    torch.save(make(), tmp_path / "model.pt")
    with pytest.raises(SystemExit) as ended:
        bring_in(tmp_path / "model.pt", vocabulary)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(expected, line), line
    assert not (tmp_path / "run").exists()


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("ran", "w"))


def test_a_file_that_would_run_code_does_not(tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Code()}, tmp_path / "model.pt")
    with pytest.raises(SystemExit):
        bring_in(tmp_path / "model.pt", vocabulary)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ['["ab"]', '{"a": 0, "b": 2}', "aba", '["a", 3]', '{"a": "b"}'])
def test_a_vocabulary_that_is_none(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chars").write_text(text)
    torch.save(MODELS["lstm"][0]().state_dict(), tmp_path / "model.pt")
    with pytest.raises(SystemExit):
        bring_in(tmp_path / "model.pt", tmp_path / "chars")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_is_not_replaced(tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(MODELS["lstm"][0]().state_dict(), tmp_path / "model.pt")
    bring_in(tmp_path / "model.pt", vocabulary)
    with pytest.raises(SystemExit):
        bring_in(tmp_path / "model.pt", vocabulary)
    assert "holds a run" in capsys.readouterr().err
