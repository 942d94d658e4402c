"""`charstream import`: makes a run, which export takes, of a model that was trained elsewhere."""

import io
import json
import reprlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import safetensors.torch
import torch
from pydantic import Field, model_validator
from torch import Tensor

from bundle.manifest import TrainingRecord, sha256
from bundle.vocabulary import Vocabulary
from charstream.settings import Positional, Settings, fail, parse
from models.data.corpus import open_corpus
from models.network.char_lm import CharLM
from models.network.config import Activation
from models.run_folder import BEST, holds_run
from models.runs.foreign_weights import StateDictError, model_of
from models.training.checkpoint import MODEL, Header, Progress, save

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
        vocabularies = _vocabularies(settings)
        data = _read(settings.state_dict)
        model, vocabulary = _fit(_tensors(settings.state_dict, data), vocabularies, settings.activation)
        _save(settings, model, vocabulary, _start_text(vocabulary, settings.start_text), data)
    except ValueError as error:
        fail(COMMAND, str(error))
    except OSError as error:
        fail(COMMAND, f"{error.filename or settings.out}: {error.strerror or error}", code=1)
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
    """Read the tensors of a file, without running code that it may hold."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything
        raise StateDictError(
            f"{file}: not a file of tensors; save them with torch.save(model.state_dict(), FILE)"
        ) from error
    return _state_dict(file, content)


def _state_dict(file: Path, content: Any) -> dict[str, Tensor]:
    """Return the content if it is a state dict, or the only state dict among its values, as trainers save them."""
    candidates = [content, *(content.values() if isinstance(content, Mapping) else ())]
    found = [dict(c) for c in candidates if isinstance(c, Mapping) and c and all(map(torch.is_tensor, c.values()))]
    if len(found) != 1:
        raise StateDictError(f"{file}: expected one state dict, names and tensors, found {len(found)}")
    return found[0]


def _fit(
    tensors: Mapping[str, Tensor], vocabularies: Sequence[Vocabulary], activation: Activation
) -> tuple[CharLM, Vocabulary]:
    """Return the model with the first vocabulary that has as many characters as the model."""
    errors = []
    for vocabulary in vocabularies:
        try:
            return model_of(tensors, len(vocabulary), activation), vocabulary
        except StateDictError as error:
            errors.append(error)
    raise errors[0]


def _vocabularies(settings: ImportSettings) -> list[Vocabulary]:
    """Return the vocabulary; for a file that ends in a newline, perhaps an editor's, also the one without it."""
    if settings.data:
        return [open_corpus(settings.data).vocabulary]
    file = cast(Path, settings.vocabulary)
    try:
        text = _read(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise StateDictError(f"{file}: not UTF-8 at byte {error.start}, expected a text in UTF-8") from error
    listed = _parse_json(file, text)
    if listed is not None:
        return [_vocabulary(file, listed)]
    ends = [text, text[:-1]] if text.endswith("\n") and len(text) > 1 else [text]
    return [_vocabulary(file, list(one)) for one in ends]


def _parse_json(file: Path, text: str) -> list[Any] | None:
    """Return the characters of a JSON list or object; None for any other text."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(content, dict):
        return _in_order(file, content)
    return content if isinstance(content, list) else None


def _vocabulary(file: Path, content: Sequence[Any]) -> Vocabulary:
    for char in content:
        if not isinstance(char, str) or len(char) != 1 or "\ud800" <= char <= "\udfff":
            raise StateDictError(
                f"{file}: found {reprlib.repr(char)}, expected single characters, in a JSON list or object or a text"
            )
    char, times = max(Counter(content).items(), key=itemgetter(1), default=("", 1))
    if times > 1:
        raise StateDictError(f"{file}: the character {char!r} is there {times} times, expected once")
    return Vocabulary("".join(content))


def _in_order(file: Path, numbers: Mapping[str, Any]) -> list[str]:
    """Return the characters of {"a": 0, "b": 1}, or of {"0": "a", "1": "b"}, in the order of their numbers."""
    if all(isinstance(char, str) and number.isdecimal() for number, char in numbers.items()):
        numbers = {char: int(number) for number, char in numbers.items()}
    if not all(type(number) is int for number in numbers.values()) or sorted(numbers.values()) != [
        *range(len(numbers))
    ]:
        raise StateDictError(f"{file}: expected the numbers 0 to {len(numbers) - 1}, each once")
    return sorted(numbers, key=numbers.__getitem__)


def _start_text(vocabulary: Vocabulary, wanted: str | None) -> str:
    if wanted and wanted not in vocabulary.symbols:
        raise StateDictError(f"--start-text {wanted!r} is not in the vocabulary")
    return wanted or ("\n" if "\n" in vocabulary.symbols else vocabulary.symbols[0])


def _save(settings: ImportSettings, model: CharLM, vocabulary: Vocabulary, start_text: str, data: bytes) -> None:
    folder = settings.out
    if holds_run(folder):
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
