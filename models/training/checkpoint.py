"""Checkpoints on disk: `NAME.json` says what it is, and names the safetensors file that holds its tensors.

The tensors are written first, under a name that no earlier checkpoint had; the JSON file, which carries their sha256,
then takes its place in one rename. So a checkpoint is the old one or the new one, whenever the process dies.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from torch import Tensor

from bundle.manifest import TrainingRecord, sha256
from bundle.vocabulary import Unit, Vocabulary
from models.atomic_files import replacement
from models.network.char_lm import CharLM
from models.network.config import ModelConfig
from models.run_folder import BEST, LAST, header_file
from models.training.loss_guard import LossStatistics
from models.training.optimizers import MODEL, tensors_under
from models.training.settings import TrainSettings, add_defaults

__all__ = [
    "MODEL",
    "CheckpointError",
    "Distillation",
    "Header",
    "Progress",
    "Trained",
    "load",
    "read",
    "save",
    "tensor_files",
]

FORMAT = 2
_DIGITS = 12  # of the sha256, in the name of a file of tensors


class CheckpointError(ValueError):
    """There is no checkpoint, it is not ours, or its files do not belong together; the message is one line."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Distillation(_Record):
    """The teachers of a run that learns from other models, by which a resumed run knows them again."""

    teachers: tuple[str, ...] = Field(description="sha256 of each teacher's model")
    probabilities: str = Field(description="sha256 of their mean probabilities of the training text")


class Progress(_Record):
    """The progress of a run. A value that is not known yet is None."""

    step: int = Field(0, ge=0, description="optimiser steps done")
    seconds: float = Field(0.0, ge=0, description="wall clock spent")
    bf16: bool | None = Field(None, description="whether training runs in bfloat16")
    threads: int | None = Field(None, ge=1, description="threads of training")
    tf32: bool = Field(False, description="whether a GPU rounds the factors of float32 products")
    device: str = Field("cpu", description="kind of device for which the three were settled")
    budget: int | None = Field(None, ge=0, description="steps of the whole run")
    check_every: int = Field(1, ge=1, description="steps between two validations")
    reserve: float = Field(0.0, ge=0, description="seconds to leave for what comes after the last step")
    best: float | None = Field(None, description="lowest validation loss so far, nats")
    worse: int = Field(0, ge=0, description="validations since then")
    guard: LossStatistics = Field(LossStatistics(), description="what the guard has counted")
    distillation: Distillation | None = Field(None, description="of a run with --distill-from")
    resumed: bool = Field(False, description="whether a process went on with what another began")


class Header(_Record):
    """The JSON file of a checkpoint."""

    format: int = FORMAT
    model: ModelConfig
    symbols: str
    unit: Unit = Field("characters", description="what a symbol is")
    start_text: str = Field(min_length=1, max_length=1)
    training: TrainingRecord
    settings: TrainSettings | None = Field(None, description="None of a model that was not trained here")
    progress: Progress
    tensors: str = Field(
        "", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the safetensors file beside this one"
    )
    tensors_sha256: str = ""

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: int) -> int:
        if value != FORMAT:
            raise ValueError(f"format {value} is not supported, this version reads format {FORMAT}: train it again")
        return value

    @field_validator("settings", mode="before")
    @classmethod
    def _add_defaults(cls, value: object) -> object:
        return add_defaults(value)

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.symbols, self.unit)


@dataclass(frozen=True)
class Trained:
    """The result of training: a model in eval mode, on the CPU, float32; and what its texts are made of."""

    model: CharLM
    vocabulary: Vocabulary
    start_text: str
    record: TrainingRecord


def load(path: Path) -> Trained:
    """Read a trained model.

    Args:
        path: a run's folder (its best checkpoint, or the last one of a run that stopped before it knew a best), or the
            .json or .safetensors file of one checkpoint.

    Raises:
        CheckpointError: no checkpoint there, or a foreign or damaged one.
    """
    header, tensors = read(path)
    model = CharLM(header.model)
    try:
        model.load_state_dict(tensors_under(MODEL, tensors))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the tensors do not fit the model {header.model.model_dump()}") from error
    return Trained(model.float().eval(), header.vocabulary, header.start_text, header.training)


def read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Read the two halves of a checkpoint and check them; `path` as in `load`. The run may go on meanwhile."""
    file = _header_file(path)
    header = _read_header(path, file)
    while True:
        try:
            return header, _read_tensors(file.with_name(header.tensors), header.tensors_sha256)
        except FileNotFoundError as error:
            newer = _read_header(path, file)
            if newer.tensors == header.tensors:
                raise CheckpointError(
                    f"{file}: the checkpoint's tensors are not beside it ({header.tensors} is missing)"
                ) from error
            header = newer  # the run saved between the two reads


def save(folder: Path, name: str, header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Write the checkpoint `name` of a run, whole or not at all; the one before it goes when this one is there."""
    data = safetensors.torch.save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
    digest = sha256(data)
    file = folder / f"{name}.{digest[:_DIGITS]}.safetensors"
    header = header.model_copy(update={"tensors": file.name, "tensors_sha256": digest})
    _write(file, data)
    _write(header_file(folder, name), (header.model_dump_json(indent=2) + "\n").encode())
    for old in (*tensor_files(folder, name), *folder.glob(f".{name}.*.new")):
        if old != file:
            old.unlink(missing_ok=True)


def tensor_files(folder: Path, name: str) -> list[Path]:
    """Return the files of tensors of checkpoints of this name; a user's own best.mine.safetensors is none."""
    return list(folder.glob(f"{name}.{'[0-9a-f]' * _DIGITS}.safetensors"))


def _header_file(path: Path) -> Path:
    if path.suffix == ".safetensors":
        return path.with_name(path.name.split(".")[0] + ".json")
    if path.suffix == ".json":
        return path
    best = header_file(path, BEST)
    return best if best.exists() else header_file(path, LAST)


def _read_header(path: Path, file: Path) -> Header:
    try:
        header = Header.model_validate_json(file.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{path}: no checkpoint there ({file.name}: {error.strerror}); `charstream train --out FOLDER` makes one"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        raise CheckpointError(f"{file}: not a checkpoint of charstream ({where or 'file'}: {what})") from error
    if path.suffix == ".safetensors" and path.name != header.tensors:
        raise CheckpointError(f"{path}: {file.name} names another file, {header.tensors}")
    return header


def _read_tensors(file: Path, digest: str) -> dict[str, Tensor]:
    try:
        data = file.read_bytes()
        if sha256(data) != digest:
            raise CheckpointError(f"{file}: damaged, its sha256 is not the one in the checkpoint's JSON file")
        return safetensors.torch.load(data)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{file}: the checkpoint's tensors cannot be read ({error.strerror})") from error
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error})") from error


def _write(file: Path, data: bytes) -> None:
    with replacement(file) as new, new.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
