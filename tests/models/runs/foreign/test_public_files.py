"""Files as public packages and trainers have them, beyond the layouts: whole models, classes of their own, NumPy."""

import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.runs.import_model import main
from models.training.checkpoint import load
from tests.models.runs.foreign.test_layouts import CHARS, SHUFFLED, LessonCharRNN, WordLanguageModel, require_same

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
AS_CHARACTERS = "\x02\x03\ufffd"


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


def bring_in(file: Path, *flags: str) -> Path:
    run = file.with_suffix(".run")
    assert main([str(file), "--out", str(run), *flags]) == 0
    return run


def require_refusal(file: Path, reason: str, capsys: pytest.CaptureFixture[str], *flags: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(file), "--out", str(file.with_suffix(".run")), *flags])
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


@pytest.fixture
def chars(tmp_path: Path) -> list[str]:
    (tmp_path / "chars.json").write_text(json.dumps(list(CHARS)))
    return ["--vocabulary", str(tmp_path / "chars.json")]


def _own_class(module: str, name: str, **values: Any) -> Any:
    """Return an object of a class that this process does not have when the file is read."""
    kind = type(name, (), {"__module__": module, "__qualname__": name})
    sys.modules.setdefault(module, ModuleType(module))
    setattr(sys.modules[module], name, kind)
    made = kind()
    vars(made).update(values)
    return made


@pytest.fixture(autouse=True)
def _no_modules_left() -> Any:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("elsewhere"):
            del sys.modules[name]


@pytest.mark.parametrize(("zipped", "protocol"), [(True, 2), (True, 4), (False, 2)])
def test_a_whole_model_is_its_weights(
    zipped: bool, protocol: int, tmp_path: Path, chars: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As pytorch/examples, spro/char-rnn.pytorch and awaelchli/pytorch-char-rnnlm save it; no code of it is run."""
    model = WordLanguageModel(tied=True)
    torch.save(model, tmp_path / "m.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    require_same(bring_in(tmp_path / "m.pt", *chars), model, CHARS)
    assert f"read without the code of {WordLanguageModel.__module__}.WordLanguageModel\n" in capsys.readouterr().err


def _flair() -> tuple[nn.Module, Any]:
    """flairNLP/flair, LanguageModel.save: an object of its own, Dictionary, has the characters as bytes."""
    model, known = WordLanguageModel(vocab=len(CHARS) + 1), [b"<unk>", *(char.encode() for char in CHARS)]
    own = _own_class("elsewhere_flair", "Dictionary", idx2item=known, item2idx={c: n for n, c in enumerate(known)})
    return model, {"state_dict": model.state_dict(), "dictionary": own, "is_forward_lm": True, "nout": None}


def _mapping() -> tuple[nn.Module, Any]:
    """joshuachak/char-rnn-pytorch-mps: the vocabulary under a name of its own, and torch's version."""
    model = WordLanguageModel()
    numbers = {char: number for number, char in enumerate(SHUFFLED)}
    return model, {
        "model_state_dict": model.state_dict(),
        "vocab_mapping": numbers,
        "train_losses": [np.float64(2), 1.5],
        "pytorch_version": torch.__version__,
        "config": _own_class("elsewhere_config", "Config", hidden=8),
    }


def _shuffled() -> tuple[nn.Module, Any]:
    """kevaday/pytorch-char-rnn: one-hot, `rnn`, `decoder`, and a tuple of characters in a set's order."""
    model = LessonCharRNN()
    return model, {"rnn_type": "LSTM", "n_layers": 2, "state_dict": model.state_dict(), "chars": SHUFFLED}


@pytest.mark.parametrize(
    ("make", "symbols"), [(_flair, "\ufffd" + CHARS), (_mapping, "".join(SHUFFLED)), (_shuffled, "".join(SHUFFLED))]
)
def test_a_vocabulary_is_found_by_what_it_is(
    make: Callable[[], tuple[nn.Module, Any]], symbols: str, tmp_path: Path
) -> None:
    model, content = make()
    torch.save(content, tmp_path / "m.pt", pickle_protocol=4)
    require_same(bring_in(tmp_path / "m.pt"), model, symbols)


def test_a_model_that_reads_backwards_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(_flair()[1] | {"is_forward_lm": False}, tmp_path / "m.pt")
    require_refusal(tmp_path / "m.pt", "from their end to their beginning", capsys)


def _molgen(folder: Path, content: dict[str, Tensor], names: list[str]) -> list[str]:
    """molgen, save_checkpoint."""
    torch.save({"model_kind": "charrnn", "model_state": content, "vocab": names}, folder / "m.pt")
    return []


def _moses(folder: Path, content: dict[str, Tensor], names: list[str]) -> list[str]:
    """MOSES: a state dict, and beside it an object of its own with the vocabulary."""
    torch.save(content, folder / "m.pt")
    own = _own_class("elsewhere_moses", "OneHotVocab", c2i={c: n for n, c in enumerate(names)}, vectors=torch.eye(3))
    torch.save(own, folder / "vocab.pt")
    return ["--vocabulary", str(folder / "vocab.pt")]


def _moses_pickled(folder: Path, content: dict[str, Tensor], names: list[str]) -> list[str]:
    torch.save(content, folder / "m.pt")
    own = _own_class("elsewhere_moses", "OneHotVocab", c2i={c: n for n, c in enumerate(names)}, vectors=torch.eye(3))
    (folder / "vocab.pkl").write_bytes(pickle.dumps(own))
    return ["--vocabulary", str(folder / "vocab.pkl")]


def _json(folder: Path, content: dict[str, Tensor], names: list[str]) -> list[str]:
    torch.save(content, folder / "m.pt")
    (folder / "vocab.json").write_text(json.dumps(names))
    return ["--vocabulary", str(folder / "vocab.json")]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("save", [_molgen, _moses, _moses_pickled, _json])
def test_symbols_that_are_no_characters(
    save: Callable[[Path, dict[str, Tensor], list[str]], list[str]],
    first: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Padding is left out; beginning, end and the unknown are the characters that Unicode has for them."""
    names = [*SPECIAL, *CHARS] if first else [*CHARS, *SPECIAL]
    model = WordLanguageModel(vocab=len(names))
    run = load(bring_in(tmp_path / "m.pt", *save(tmp_path, model.state_dict(), names)))
    assert run.vocabulary.symbols == (AS_CHARACTERS + CHARS if first else CHARS + AS_CHARACTERS)
    assert run.start_text == "\x02"
    kept = torch.tensor([number for number, name in enumerate(names) if name != "<pad>"])
    ids = torch.randint(len(kept), (20, 3))
    with torch.no_grad():
        logits, _ = run.model(ids, run.model.initial_state(3))
        torch.testing.assert_close(logits, model.eval()(kept[ids])[..., kept])
    assert "<eos> is the character U+0003\n" in capsys.readouterr().err


def test_more_rows_than_characters_are_told(
    tmp_path: Path, chars: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(WordLanguageModel(vocab=len(CHARS) + 1).state_dict(), tmp_path / "m.pt")
    require_refusal(
        tmp_path / "m.pt", "another vocabulary? 1 more than characters: a vocabulary as JSON", capsys, *chars
    )


def test_numbers_that_begin_at_one_leave_a_row_for_padding(tmp_path: Path) -> None:
    """As Keras' Tokenizer and textgenrnn count."""
    model = WordLanguageModel(vocab=len(CHARS) + 1)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    (tmp_path / "vocab.json").write_text(json.dumps({char: number + 1 for number, char in enumerate(CHARS)}))
    run = load(bring_in(tmp_path / "m.pt", "--vocabulary", str(tmp_path / "vocab.json")))
    ids = torch.randint(len(CHARS), (20, 3))
    with torch.no_grad():
        logits, _ = run.model(ids, run.model.initial_state(3))
        torch.testing.assert_close(logits, model.eval()(ids + 1)[..., 1:])


@pytest.mark.parametrize("whole", [True, False])
def test_an_rnn_of_relu_is_not_taken_for_one_of_tanh(
    whole: bool, tmp_path: Path, chars: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As a whole model and kevaday's `rnn_type` say it; its tensors do not."""
    model = WordLanguageModel()
    model.rnn = nn.RNN(8, 8, 2, nonlinearity="relu")
    torch.save(model if whole else {"rnn_type": "RNN_RELU", "net": model.state_dict()}, tmp_path / "m.pt")
    require_refusal(tmp_path / "m.pt", "says that its nn.RNN is of relu: give --activation relu", capsys, *chars)
    require_same(bring_in(tmp_path / "m.pt", *chars, "--activation", "relu"), model, CHARS)


def _pickled(state: dict[str, Tensor], file: Path) -> None:
    file.write_bytes(pickle.dumps(state))


def _pickled_arrays(state: dict[str, Tensor], file: Path) -> None:
    """As g2pM ships its weights."""
    file.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in state.items()}, protocol=3))


def _arrays_of_protocol_5(state: dict[str, Tensor], file: Path) -> None:
    file.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in state.items()}, protocol=5))


def _npz(state: dict[str, Tensor], file: Path) -> None:
    with file.open("wb") as stream:
        np.savez(stream, **{name: tensor.numpy() for name, tensor in state.items()})


def _beside_arrays(state: dict[str, Tensor], file: Path) -> None:
    torch.save({"net": state, "losses": np.arange(3.0), "random": np.random.RandomState(1).get_state()}, file)


def _in_a_list(state: dict[str, Tensor], file: Path) -> None:
    torch.save([state, {"epoch": 3}], file)


def _beside_numbers(state: dict[str, Tensor], file: Path) -> None:
    torch.save({**state, "epoch": 3}, file)


def _fastai(state: dict[str, Tensor], file: Path) -> None:
    """fastai, Learner.save: the embedding a second time, in what drops some of it."""
    renamed = {name.replace("encoder", "0.encoder").replace("decoder", "1.decoder"): t for name, t in state.items()}
    torch.save({"model": renamed | {"0.encoder_dp.emb.weight": state["encoder.weight"]}, "opt": {}}, file)


@pytest.mark.parametrize(
    "save",
    [_pickled, _pickled_arrays, _arrays_of_protocol_5, _npz, _beside_arrays, _in_a_list, _beside_numbers, _fastai],
)
@pytest.mark.parametrize("tied", [True, False])
def test_weights_in_other_wrappings(
    save: Callable[[dict[str, Tensor], Path], None], tied: bool, tmp_path: Path, chars: list[str]
) -> None:
    model = WordLanguageModel(tied=tied)
    save(model.state_dict(), tmp_path / "m")
    require_same(bring_in(tmp_path / "m", *chars), model, CHARS)


def test_arrays_of_objects_are_not_read(tmp_path: Path, chars: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for protocol in (2, 5):
        (tmp_path / "m.pkl").write_bytes(pickle.dumps({"a": np.array([{}, 1], dtype=object)}, protocol=protocol))
        require_refusal(tmp_path / "m.pkl", "not a file of tensors", capsys, *chars)


class _Opens:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("ran", "w"))


def test_code_beside_weights_is_not_run(
    tmp_path: Path, chars: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = WordLanguageModel()
    torch.save({"net": model.state_dict(), "hook": _Opens()}, tmp_path / "m.pt")
    require_same(bring_in(tmp_path / "m.pt", *chars), model, CHARS)
    assert "read without the code of io.open\n" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def _zip_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"x" * 99)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        (
            "weights.hdf5",
            b"\x89HDF\r\n\x1a\n" + b"\0" * 99,
            "an HDF5 file, as Keras writes them: build",
        ),
        ("m.keras", _zip_of("metadata.json", "model.weights.h5"), "a model of Keras 3: build the same layers"),
        ("m.onnx", b"\x08\x08", "an ONNX file: build the same layers"),
        ("cv/lm_lstm.t7", b"4\n1\n", "a file of Torch 7 (Lua): build the same layers"),
        ("model.ckpt.index", b"\0\0", "a checkpoint of TensorFlow: build the same layers"),
        ("m.jit", _zip_of("m/constants.pkl", "m/code/a.py"), "a TorchScript archive, which holds a program"),
    ],
)
def test_files_of_others_are_named_with_the_way(
    name: str, data: bytes, reason: str, tmp_path: Path, chars: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    require_refusal(file, reason, capsys, *chars)
