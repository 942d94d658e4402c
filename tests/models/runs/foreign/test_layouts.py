"""Checkpoints as six well-known public trainers save them compute here what they compute there."""

import argparse
import io
import pickle
import string
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.runs.foreign.content import find_state_dict
from models.runs.foreign.errors import StateDictError
from models.runs.foreign.safe_load import load_content
from models.runs.foreign.unpickler import load_harmless_pickle
from models.runs.import_model import main
from models.training.checkpoint import load

CHARS = "\n abcdefghij"
V = len(CHARS)
SHUFFLED = tuple("gj\nbda hcife")


class WordLanguageModel(nn.Module):
    """pytorch/examples, word_language_model/model.py."""

    def __init__(self, *, tied: bool = False, vocab: int = V) -> None:
        super().__init__()
        self.encoder, self.rnn, self.decoder = nn.Embedding(vocab, 8), nn.LSTM(8, 8, 2), nn.Linear(8, vocab)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.decoder(self.rnn(self.encoder(ids))[0])


class CharRNN(nn.Module):
    """spro/char-rnn.pytorch, model.py: embedding and head of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.rnn = nn.Embedding(100, 8), nn.GRU(8, 8, 2)
        self.decoder = nn.Linear(8, 100)

    forward = WordLanguageModel.forward


class LessonCharRNN(nn.Module):
    """udacity/deep-learning-v2-pytorch, the lesson Character-Level RNN: one-hot, its characters in a set's order."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(V, 8, 2, batch_first=True), nn.Linear(8, V)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.lstm(nn.functional.one_hot(ids.T, V).float())[0]).transpose(0, 1)


class AwdLstm(nn.Module):
    """salesforce/awd-lstm-lm: an LSTM for each layer in a WeightDrop, which keeps the weights in *_raw."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Embedding(V, 8), nn.Linear(8, V)
        self.rnns = nn.ModuleList(nn.LSTM(8, 8) for _ in range(3))
        self.decoder.weight = self.encoder.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.encoder(ids)
        for rnn in self.rnns:
            x = rnn(x)[0]
        return self.decoder(x)

    def saved(self) -> dict[str, Tensor]:
        state = OrderedDict()
        for name, tensor in self.state_dict().items():
            renamed = name.replace("weight_hh_l0", "weight_hh_l0_raw")
            parts = renamed.split(".")
            state[".".join([*parts[:2], "module", *parts[2:]] if parts[0] == "rnns" else parts)] = tensor
        return state


def words(folder: Path) -> tuple[nn.Module, Any, list[str], str]:
    model = WordLanguageModel(tied=True)
    state = model.state_dict()
    del state["decoder.weight"]  # as safetensors' writer leaves it out
    (folder / "chars.txt").write_text(CHARS)
    return model, state, ["--vocabulary", str(folder / "chars.txt")], CHARS


def char_rnn(folder: Path) -> tuple[nn.Module, Any, list[str], str]:
    model = CharRNN()
    (folder / "printable.txt").write_bytes(string.printable.encode())
    return model, model.state_dict(), ["--vocabulary", str(folder / "printable.txt")], string.printable


def lesson(folder: Path) -> tuple[nn.Module, Any, list[str], str]:
    model = LessonCharRNN()
    return (
        model,
        {"n_hidden": 8, "n_layers": 2, "state_dict": model.state_dict(), "tokens": SHUFFLED},
        [],
        "".join(SHUFFLED),
    )


def awd_lstm(folder: Path) -> tuple[nn.Module, Any, list[str], str]:
    model = AwdLstm()
    (folder / "chars.txt").write_text(CHARS)
    return model, model.saved(), ["--vocabulary", str(folder / "chars.txt")], CHARS


def nano_gpt(folder: Path) -> tuple[nn.Module, Any, list[str], str]:
    """karpathy/nanoGPT: a compiled model in `model`, the vocabulary in meta.pkl beside the data."""
    model = WordLanguageModel()
    state = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    content = {
        "model": state,
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        "model_args": {"n_layer": 2, "bias": False, "vocab_size": V},
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.5),
        "config": {"out_dir": "out", "learning_rate": 1e-3},
    }
    meta = {"vocab_size": V, "itos": dict(enumerate(SHUFFLED)), "stoi": {c: n for n, c in enumerate(SHUFFLED)}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return model, content, ["--vocabulary", str(folder / "meta.pkl")], "".join(SHUFFLED)


def lightning(folder: Path) -> tuple[nn.Module, Any, list[str], str]:
    """PyTorch Lightning's checkpoints: everything is in `state_dict`, under the names of the LightningModule."""
    model = WordLanguageModel()
    content = {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"net.{name}": tensor for name, tensor in model.state_dict().items()},
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(1.5), "dirpath": "x"}},
        "optimizer_states": [torch.optim.Adam(model.parameters()).state_dict()],
        "lr_schedulers": [],
        "hyper_parameters": {"args": argparse.Namespace(lr=1e-3, data=Path("x")), "chars": "".join(SHUFFLED)},
    }
    return model, content, [], "".join(SHUFFLED)


Make = Callable[[Path], tuple[nn.Module, Any, list[str], str]]


def bring_in(folder: Path, content: Any, *flags: str, protocol: int = 2) -> Path:
    torch.save(content, folder / "model.pt", pickle_protocol=protocol)
    assert main([str(folder / "model.pt"), "--out", str(folder / "run"), *flags]) == 0
    return folder / "run"


def require_same(run: Path, model: nn.Module, symbols: str) -> None:
    trained, ids = load(run), torch.randint(len(symbols), (30, 4))
    assert trained.vocabulary.symbols == symbols
    with torch.no_grad():
        logits, _ = trained.model(ids, trained.model.initial_state(4))
        torch.testing.assert_close(logits, model.eval()(ids))


@pytest.mark.parametrize("make", [words, char_rnn, lesson, awd_lstm, nano_gpt, lightning])
def test_what_a_public_trainer_saves_computes_the_same_here(make: Make, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, content, flags, symbols = make(tmp_path)
    require_same(bring_in(tmp_path, content, *flags), model, symbols)


class Cells(nn.Module):
    """A stack of nn.LSTMCell, as in hand-written loops."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(V, 5), nn.Linear(8, V)
        self.cell1, self.cell2 = nn.LSTMCell(5, 8), nn.LSTMCell(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        one, two = (torch.zeros(ids.shape[1], 8),) * 2, (torch.zeros(ids.shape[1], 8),) * 2
        above = []
        for x in self.embed(ids):
            one = self.cell1(x, one)
            two = self.cell2(one[0], two)
            above.append(two[0])
        return self.fc(torch.stack(above))


class Apart(nn.Module):
    """nn.GRU modules with a number each; the tenth comes after the second."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(V, 5), nn.Linear(8, V)
        self.gru10, self.gru2 = nn.GRU(8, 8), nn.GRU(5, 8, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.gru10(self.gru2(self.embed(ids))[0])[0])


@pytest.mark.parametrize("kind", [Cells, Apart])
def test_layers_in_several_modules_are_stacked_by_their_numbers(kind: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = kind()
    require_same(bring_in(tmp_path, {"net": model.state_dict(), "vocab": list(CHARS)}), model, CHARS)


@pytest.mark.parametrize("place", [0, V])
@pytest.mark.parametrize("told", [True, False])
def test_the_row_of_a_padding_symbol_is_left_out(place: int, told: bool, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = WordLanguageModel(vocab=V + 1)
    if not told:
        with torch.no_grad():
            model.encoder.weight[place] = 0  # as nn.Embedding(padding_idx=...) has it
    chars = [*CHARS[:place], "<pad>", *CHARS[place:]] if told else list(CHARS)
    run = load(
        bring_in(tmp_path, {"model": model.state_dict(), "vocab": {"stoi": {c: n for n, c in enumerate(chars)}}})
    )
    numbers = torch.tensor([number for number in range(V + 1) if number != place])
    ids = torch.randint(V, (20, 3))
    with torch.no_grad():
        logits, _ = run.model(ids, run.model.initial_state(3))
        torch.testing.assert_close(logits, model.eval()(numbers[ids])[..., numbers])


def test_weights_or_their_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, other = WordLanguageModel(), WordLanguageModel()
    average = AveragedModel(other)
    content = {"model": model.state_dict(), "ema": average.state_dict(), "tokens": CHARS}
    with pytest.raises(SystemExit, match="2"):
        bring_in(tmp_path, content)
    assert "holds several models, model, ema: --weights takes one of them" in capsys.readouterr().err
    require_same(bring_in(tmp_path, content, "--weights", "ema"), other, CHARS)
    both = {f"{name}.{key}": t for name, m in (("online", model), ("ema", other)) for key, t in m.state_dict().items()}
    with pytest.raises(SystemExit, match="2"):
        bring_in(tmp_path, {"state": both, "tokens": CHARS}, "--weights", "state")
    assert "has state.online, state.ema" in capsys.readouterr().err


def test_embedding_and_head_of_one_shape_without_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(3)
    model = WordLanguageModel()
    with torch.no_grad():
        model.decoder.bias.zero_()
    state = {"b.weight": model.decoder.weight, "a.weight": model.encoder.weight, **model.rnn.state_dict()}
    content = {"model": state, "tokens": CHARS}
    with pytest.raises(SystemExit, match="2"):
        bring_in(tmp_path, content)
    assert "--head b.weight or --head a.weight decides" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        bring_in(tmp_path, content, "--head", "c.weight")
    assert (
        "--head c.weight: is not there; of [12 characters, 8 units] are b.weight, a.weight" in capsys.readouterr().err
    )
    require_same(bring_in(tmp_path, content, "--head", "b.weight"), model, CHARS)


@pytest.mark.parametrize("order", [1, -1])
def test_embedding_and_head_are_told_by_name_in_whatever_order_they_stand(order: int, tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = WordLanguageModel()
    with torch.no_grad():
        model.decoder.bias.zero_()
    names = [("model.decoder.embed.weight", model.encoder), ("model.decoder.proj_out.weight", model.decoder)][::order]
    state = {name: module.weight for name, module in names} | model.rnn.state_dict()
    require_same(bring_in(tmp_path, {"model": state, "tokens": CHARS}), model, CHARS)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"ln.weight": (8,), "ln.bias": (8,)}, "ln.weight [8], of a LayerNorm; ln.bias [8], of a LayerNorm"),
        ({"proj.weight": (8, 8), "proj.bias": (8,)}, "proj.weight [8, 8], of another linear layer or projection"),
        ({"bn.weight": (8,), "bn.running_mean": (8,)}, "bn.running_mean [8], of a batch normalisation"),
        ({"h0": (1, 8)}, "h0 [1, 8], a learned first state"),
    ],
)
def test_what_else_computes_is_refused_by_name(
    extra: dict[str, tuple[int, ...]], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = WordLanguageModel().state_dict() | {name: torch.ones(shape) for name, shape in extra.items()}
    with pytest.raises(SystemExit, match="2"):
        bring_in(tmp_path, {"model": state, "tokens": CHARS})
    assert reason in capsys.readouterr().err


def test_a_text_tells_a_vocabulary_in_another_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model is sure of the next character: in its own order it is right, in another it is wrong."""
    (tmp_path / "text.txt").write_text((CHARS[1:] + CHARS[0]) * 50)
    rnn, head, order = nn.RNN(V, V), nn.Linear(V, V), [SHUFFLED.index(char) for char in CHARS]
    with torch.no_grad():
        for parameter in [*rnn.parameters(), *head.parameters()]:
            parameter.zero_()
        rnn.weight_ih_l0 += 5 * torch.eye(V)
        head.weight[order[1:] + order[:1], order] = 20
    state = {**rnn.state_dict(), "fc.weight": head.weight, "fc.bias": head.bias}
    data = ["--data", str(tmp_path / "text.txt")]
    bring_in(tmp_path, {"model": state, "tokens": SHUFFLED}, *data)
    assert "0.000 nats per character" in (line := capsys.readouterr().err.splitlines()[-1])
    assert "guessing loses 2.485" in line
    (tmp_path / "sorted").mkdir()
    bring_in(tmp_path / "sorted", {"model": state}, *data)
    line = capsys.readouterr().err.splitlines()[-1]
    assert "warning: " in line
    assert "no better than guessing (ln 12 = 2.485)" in line
    assert "set(text)" in line


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_harmless_values_beside_the_weights(protocol: int, tmp_path: Path) -> None:
    torch.manual_seed(6)
    model = WordLanguageModel()
    content = {
        "model": model.state_dict(),
        "args": argparse.Namespace(data=Path("x"), lr=1e-3),
        "val_loss": np.float64(1.5),
        "step": np.int64(3),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "seen": {1, 2},
        "chars": list(CHARS),
    }
    require_same(bring_in(tmp_path, content, protocol=protocol), model, CHARS)


class Unreadable:
    """Gives its weights only by its own code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (WordLanguageModel, ())


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_model_that_only_its_own_code_can_make_is_refused_with_what_extracts_its_weights(
    protocol: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        bring_in(tmp_path, Unreadable(), protocol=protocol)
    (line,) = capsys.readouterr().err.splitlines()
    file = tmp_path / "model.pt"
    assert "it holds tests.models.runs.foreign.test_layouts.WordLanguageModel, and code of files is not run" in line
    load_line = f"content = torch.load({str(file)!r}, map_location='cpu', weights_only=False)"
    assert f"{load_line}; torch.save(content.state_dict(), 'weights.pt')" in line


FIELD = Path(__file__).parents[4].parent / "shared" / "field"
HELD = ["no_head_bias.safetensors", "head_defined_first.pt"]
TRAINERS = ["trainer_argparse.pt", "trainer_numpy_scalar.pt", "state_dict_protocol4.pt"]


@pytest.mark.skipif(not FIELD.is_dir(), reason="needs ../shared/field")
@pytest.mark.parametrize("name", [*HELD, *TRAINERS])
def test_files_that_users_brought(name: str, tmp_path: Path) -> None:
    assert main([str(FIELD / name), "--vocabulary", str(FIELD / "chars.json"), "--out", str(tmp_path)]) == 0
    if name in HELD:
        reference = torch.load(FIELD / f"{name.partition('.')[0]}.ref")
        model = load(tmp_path).model
        with torch.no_grad():
            logits, _ = model(reference["x"], model.initial_state(reference["x"].shape[1]))
        torch.testing.assert_close(logits, reference["y"])


# Gives collections.Counter itself a state, as no `__reduce__` can.
CHANGES_A_CLASS = b"\x80\x04ccollections\nCounter\nN}X\x0b\x00\x00\x00most_commoncbuiltins\nlist\ns\x86b."


def _zip_of(pickled: bytes, how: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/version", b"3\n")
    return stream.getvalue()


def test_a_pickle_cannot_change_a_class(tmp_path: Path) -> None:
    before = Counter.most_common
    try:
        with pytest.raises(StateDictError, match="a state for a type"):
            load_harmless_pickle(tmp_path / "meta.pkl", CHANGES_A_CLASS)
        with pytest.raises(StateDictError, match="not a file of tensors"):
            load_content(tmp_path / "model.pt", _zip_of(CHANGES_A_CLASS))
        assert Counter.most_common is before
    finally:
        Counter.most_common = before  # type: ignore[method-assign]


def test_a_few_bytes_do_not_take_gigabytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StateDictError, match=r"model/data\.pkl is compressed"):
        load_content(tmp_path / "model.pt", _zip_of(b" " * 9_999, zipfile.ZIP_DEFLATED))
    state = WordLanguageModel().state_dict()
    name = next(name for name in state if name.endswith("weight_hh_l0"))
    with pytest.raises(SystemExit, match="2"):
        bring_in(tmp_path, {"model": state | {name: torch.zeros(1).expand(300_000, 400_000)}, "tokens": list(CHARS)})
    assert f"{name}: an expanded tensor" in capsys.readouterr().err


def test_a_dictionary_that_holds_itself_is_looked_into_once(tmp_path: Path) -> None:
    state = WordLanguageModel().state_dict()
    content: dict[str, Any] = {"model": state}
    content |= {str(number): content for number in range(1_000)}
    assert find_state_dict(tmp_path, content, None).keys() == state.keys()
