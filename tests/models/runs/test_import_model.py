"""A model that was trained elsewhere computes the same here, and what cannot be brought in is named."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from models.runs.import_model import main
from models.training.checkpoint import load

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


def _lstm(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[], dict[str, object]]:
    def changed() -> dict[str, object]:
        state = Foreign(nn.LSTM(5, 8), 5, 8).state_dict()
        return {**state, name: change(state[name])}

    return changed


def _cell(rows: int, hidden: int) -> dict[str, object]:
    shapes = {"weight_ih_l0": (rows, 5), "weight_hh_l0": (rows, hidden), "e": (V, 5), "o.weight": (V, hidden)}
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def _empty_inputs() -> dict[str, object]:
    return {"tok.weight": torch.zeros(V, 0), "body.weight_ih_l0": torch.zeros(24, 0)}


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
    "head's bias too long": (
        _lstm("out.bias", lambda old: torch.zeros(99)),
        r"out.bias: found \[99\], expected \[12\]",
    ),
    "head's bias of two axes": (_lstm("out.bias", lambda old: old[None]), r"out.bias: found \[1, 12\]"),
    "weights of one axis": (_lstm("body.weight_hh_l0", lambda old: old[0]), r"weight_hh_l0: found \[8\], expected two"),
    "weights of three axes": (_lstm("body.weight_ih_l0", lambda old: old[None]), r"weight_ih_l0: found \[1, 32, 5\]"),
    "gates of no cell": (lambda: _cell(27, 6), r"weight_hh_l0: found \[27, 6\], expected are 1, 3 or 4 times"),
    "no hidden units": (lambda: _cell(0, 0), r"weight_hh_l0: found \[0, 0\], expected are 1, 3 or 4 times"),
    "no inputs": (lambda: Foreign(nn.GRU(5, 8), 5, 8).state_dict() | _empty_inputs(), "embedding: .* equal to 1"),
    "too many layers": (lambda: Foreign(nn.GRU(5, 8, 20), 5, 8).state_dict(), r"layers: .* equal to 16 \(got 20\)$"),
    "no names": (lambda: {1: torch.zeros(3)}, "1: found as the name of a tensor"),
    "sparse": (_lstm("out.weight", lambda old: old.to_sparse()), "out.weight: found float32, sparse_coo, on cpu"),
    "meta": (_lstm("out.weight", lambda old: old.to("meta")), "out.weight: found float32, strided, on meta"),
    "complex": (_lstm("out.weight", lambda old: old.to(torch.complex64)), "out.weight: found complex64"),
    "integers": (_lstm("out.weight", lambda old: old.int()), "out.weight: found int32"),
    "NaN": (_lstm("out.weight", lambda old: old * torch.nan), "out.weight: holds NaN"),
    "too large": (_lstm("out.weight", lambda old: old.double() + 1e300), "out.weight: .* infinite in float32"),
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


def _saved(state: object, **how: object) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, **how)
    return file.getvalue()


def _damaged() -> dict[str, bytes]:
    state = Foreign(nn.LSTM(5, 8), 5, 8).state_dict()
    zipped, old = _saved(state), _saved(state, _use_new_zipfile_serialization=False)
    return {
        "text": b"hello, this is a text\n" * 9,
        "json": b'{"a": 1}',
        "empty": b"",
        "opcodes": b"\x80\x02h\x05.",
        "no stack": b"\x80\x02.",
        "no UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
        "half": zipped[: len(zipped) // 2],
        "half of an old one": old[: len(old) // 2],
        "no tensors": zipped.replace(b"data.pkl", b"atad.pkl"),
    }


DAMAGED = _damaged()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_of_no_tensors_is_named(
    name: str, suffix: str, tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(DAMAGED[name])
    with pytest.raises(SystemExit, match="2"):
        bring_in(file, vocabulary)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file}: not a file of tensors; save them with torch.save" in line


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("ran", "w"))


def test_a_file_that_would_run_code_does_not(tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Code()}, tmp_path / "model.pt")
    with pytest.raises(SystemExit):
        bring_in(tmp_path / "model.pt", vocabulary)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'["ab"]', "found 'ab', expected single characters"),
        (b'["a", 3]', "found 3, expected single characters"),
        (b'["\\ud800"]', "expected single characters"),
        (b'{"a": 0, "b": 2}', "expected the numbers 0 to 1, each once"),
        (b'{"a": 0, "b": null}', "expected the numbers 0 to 1"),
        (b'{"a": 0, "b": "1"}', "expected the numbers 0 to 1"),
        (b'{"a": false, "b": true}', "expected the numbers 0 to 1"),
        (b'{"x": "a"}', "expected the numbers 0 to 0"),
        (b"aba", "the character 'a' is there 2 times, expected once"),
        (b"[" * 100_000, "the character '[' is there 100000 times"),
        (b"ab\xff", "not UTF-8 at byte 2"),
        (b"", "a vocabulary needs distinct characters"),
    ],
)
def test_a_vocabulary_that_is_none(
    text: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chars").write_bytes(text)
    torch.save(MODELS["lstm"][0]().state_dict(), tmp_path / "model.pt")
    with pytest.raises(SystemExit, match="2"):
        bring_in(tmp_path / "model.pt", tmp_path / "chars")
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("abcdefghijkl\n", "abcdefghijkl"),
        ("abcdefghijk\n", "abcdefghijk\n"),
        ("-1234567.890", "-1234567.890"),
    ],
)
def test_a_text_is_the_vocabulary_as_it_stands(text: str, symbols: str, tmp_path: Path) -> None:
    """Digits are no JSON number, and an editor's newline at the end is no character that the model knows."""
    (tmp_path / "chars").write_text(text)
    torch.save(MODELS["lstm"][0]().state_dict(), tmp_path / "model.pt")
    assert load(bring_in(tmp_path / "model.pt", tmp_path / "chars")).vocabulary.symbols == symbols


@pytest.mark.parametrize("left", ["best.json", "last.json", "metrics.jsonl"])
def test_the_folder_of_a_run_is_left_alone(left: str, tmp_path: Path, vocabulary: Path) -> None:
    torch.save(MODELS["lstm"][0]().state_dict(), tmp_path / "model.pt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).touch()
    with pytest.raises(SystemExit, match="2"):
        bring_in(tmp_path / "model.pt", vocabulary)
    assert [file.name for file in (tmp_path / "run").iterdir()] == [left]


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(MODELS["lstm"][0]().state_dict(), tmp_path / "model.pt")
    (tmp_path / "run").touch()
    with pytest.raises(SystemExit, match="1"):
        bring_in(tmp_path / "model.pt", vocabulary)
    assert f"{tmp_path / 'run'}: File exists" in capsys.readouterr().err


def test_a_run_is_not_replaced(tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(MODELS["lstm"][0]().state_dict(), tmp_path / "model.pt")
    bring_in(tmp_path / "model.pt", vocabulary)
    with pytest.raises(SystemExit):
        bring_in(tmp_path / "model.pt", vocabulary)
    assert "holds a run" in capsys.readouterr().err
