"""`charstream import`: a model that was trained elsewhere becomes a run, which export takes."""

import json
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import safetensors.torch
import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from torch import Tensor

from bundle.manifest import TrainingRecord, sha256
from bundle.vocabulary import Vocabulary
from charstream.settings import Positional, Settings, fail, parse
from models.checkpoint import BEST, LAST, MODEL, Header, Progress, save
from models.corpus import open_corpus
from models.model import CharLM
from models.state_dict import StateDictError, model_of

__all__ = ["ImportSettings", "main"]

COMMAND = "charstream import"


class ImportSettings(Settings):
    """Brings in a model that was trained elsewhere: embedding or one-hot, nn.LSTM, nn.GRU or nn.RNN, a linear head.

    The file is what torch.save(model.state_dict(), FILE) wrote, or a safetensors file; the modules may have any names.
    The vocabulary must be in the order of the model's numbers.
    """

    state_dict: Annotated[Path, Positional()] = Field(description="the weights, .pt or .safetensors")
    vocabulary: Path | None = Field(
        None,
        description='the characters in order: a JSON list, a JSON object {"a": 0, ...}, or a text of each one once',
    )
    data: str | None = Field(None, description="or the text of which the vocabulary is, sorted, every character")
    out: Path = Field(description="folder of the run")
    activation: Literal["tanh", "relu"] = Field("tanh", description="of an nn.RNN")
    start_text: str | None = Field(
        None, min_length=1, max_length=1, description="every text starts after it (default: newline, or the first one)"
    )

    @model_validator(mode="after")
    def _one_vocabulary(self) -> Self:
        if (self.vocabulary is None) == (self.data is None):
            raise ValueError("give --vocabulary or --data")
        return self


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ImportSettings, argv, command=COMMAND)
    try:
        vocabulary = (
            open_corpus(settings.data).vocabulary if settings.data else _vocabulary(cast(Path, settings.vocabulary))
        )
        start_text = _start_text(vocabulary, settings.start_text)
        data = _read(settings.state_dict)
        model = model_of(_tensors(settings.state_dict, data), len(vocabulary), settings.activation)
        _save(settings, model, vocabulary, start_text, data)
    except ValueError as error:
        fail(COMMAND, str(error))
    config = model.config
    print(
        f"{settings.out}: {config.cell} with {config.layers} layers of {config.hidden}, {config.input} input, "
        f"{len(vocabulary)} characters"
    )
    return 0


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StateDictError(f"{file}: {(error.strerror or str(error)).lower()}") from error


def _tensors(file: Path, data: bytes) -> dict[str, Tensor]:
    """Runs no code that a file may hold."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load(data)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise StateDictError(
            f"{file}: not a file of tensors; save them with torch.save(model.state_dict(), FILE)"
        ) from error
    return _state_dict(file, content)


def _state_dict(file: Path, content: Any) -> dict[str, Tensor]:
    """The state dict, or the only one among other things that a file holds, as trainers save them."""
    candidates = [content, *(content.values() if isinstance(content, Mapping) else ())]
    found = [dict(c) for c in candidates if isinstance(c, Mapping) and c and all(map(torch.is_tensor, c.values()))]
    if len(found) != 1:
        raise StateDictError(f"{file}: expected one state dict, names and tensors, found {len(found)}")
    return found[0]


def _vocabulary(file: Path) -> Vocabulary:
    text = _read(file).decode("utf-8")
    try:
        content = json.loads(text)
    except ValueError:
        content = list(text)
    if isinstance(content, Mapping):
        content = _in_order(file, content)
    if not isinstance(content, list) or not all(isinstance(char, str) and len(char) == 1 for char in content):
        raise StateDictError(f"{file}: expected single characters, as a JSON list or object, or as a text")
    if len(set(content)) != len(content):
        twice = next(char for char in content if content.count(char) > 1)
        raise StateDictError(f"{file}: the character {twice!r} is there {content.count(twice)} times, expected once")
    return Vocabulary("".join(content))


def _in_order(file: Path, numbers: Mapping[str, Any]) -> list[str]:
    """The characters of {"a": 0, "b": 1}, or of {"0": "a", "1": "b"}."""
    if all(isinstance(char, str) for char in numbers.values()):
        numbers = {char: int(number) for number, char in numbers.items()}
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise StateDictError(f"{file}: expected the numbers 0 to {len(numbers) - 1}, each once")
    return sorted(numbers, key=numbers.__getitem__)


def _start_text(vocabulary: Vocabulary, wanted: str | None) -> str:
    if wanted and wanted not in vocabulary.symbols:
        raise StateDictError(f"--start-text {wanted!r} is not in the vocabulary")
    return wanted or ("\n" if "\n" in vocabulary.symbols else vocabulary.symbols[0])


def _save(settings: ImportSettings, model: CharLM, vocabulary: Vocabulary, start_text: str, data: bytes) -> None:
    folder = settings.out
    if any((folder / f"{name}.json").exists() for name in (BEST, LAST)):
        raise StateDictError(f"{folder} holds a run; --out names another folder")
    folder.mkdir(parents=True, exist_ok=True)
    record = TrainingRecord(
        data=f"not known; the weights are of {settings.state_dict.name}",
        data_sha256=sha256(data),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=0,
        seconds=0,
        validation_nats={},
    )
    header = Header(
        model=model.config,
        symbols=vocabulary.symbols,
        unit=vocabulary.unit,
        start_text=start_text,
        training=record,
        progress=Progress(),
    )
    save(folder, BEST, header, {MODEL + name: tensor for name, tensor in model.state_dict().items()})


if __name__ == "__main__":
    sys.exit(main())
