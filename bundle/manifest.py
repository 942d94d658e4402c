"""manifest.json: the description of a bundle, and the sha256 of every file in it."""

import hashlib
import json
import operator
import re
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bundle.probe import ROWS, SAMPLED
from bundle.shape import ModelShape
from bundle.vocabulary import Unit, UnknownCharacter, Vocabulary

__all__ = [
    "FORMAT",
    "ON_DEVICE",
    "FileRecord",
    "Manifest",
    "ModelName",
    "ModelShape",
    "ModelVersion",
    "Precision",
    "TrainingRecord",
    "sha256",
]

FORMAT = 4
Precision = Literal["fp32", "int8", "fp32-cuda", "fp16-cuda"]
# The precisions whose graphs have no loop: one graph for each of DEVICE_STEPS in bundle/graph_contract.py.
ON_DEVICE: frozenset[Precision] = frozenset({"fp32-cuda", "fp16-cuda"})
MAX_PROMPTS, MAX_PROMPT = 8, 256
# The largest count that the API can hold.
_MAX_COUNT = 2**63 - 1
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileRecord(_Record):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class TrainingRecord(_Record):
    """The origin of the weights. `validation_nats`: mean nats per symbol of held-out text, by protocol."""

    data: str
    data_sha256: str
    split: str = Field("", description="shares of training, validation and test; empty: not known")
    parameters: int = Field(ge=0, le=_MAX_COUNT)
    steps: int = Field(ge=0, le=_MAX_COUNT)
    seconds: float = Field(ge=0)
    validation_nats: dict[str, float]
    # Left out where there are none: what was written before there were prompts keeps its bytes, and so its digest.
    prompts: tuple[Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)], ...] = Field(
        (),
        max_length=MAX_PROMPTS,
        exclude_if=operator.not_,
        description="beginnings of lines of the held-out text, to try the model with",
    )


ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
ModelVersion = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Manifest(_Record):
    format: int
    name: ModelName
    version: ModelVersion
    model: ModelShape
    unit: Unit = Field("characters", description="whether a symbol is a character or a byte of UTF-8")
    symbols: str = Field(description="the vocabulary: each symbol once, in the order of the tokens")
    start_text: str = Field(min_length=1, max_length=1, description="the symbol before every text")
    precisions: tuple[Precision, ...] = Field(min_length=1, description="fp32 first, then any others; or int8 alone")
    probe: dict[Precision, tuple[str, ...]] = Field(description="texts that bundle/probe.py's run generates, by row")
    training: TrainingRecord
    files: dict[str, FileRecord]

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: int) -> int:
        if value != FORMAT:
            raise ValueError(
                f"bundle format {value} is not supported, this version reads format {FORMAT}: export it again"
            )
        return value

    @field_validator("files")
    @classmethod
    def _plain_names(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in files:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"file name {name!r} is not a plain name")
        return files

    @model_validator(mode="after")
    def _start_is_known(self) -> "Manifest":
        if self.start_text not in self.vocabulary.symbols:
            raise ValueError(f"start text {self.start_text!r} is not in the vocabulary")
        return self

    @model_validator(mode="after")
    def _prompts_are_known(self) -> "Manifest":
        for prompt in self.training.prompts:
            try:
                self.vocabulary.encode(prompt)
            except UnknownCharacter as error:
                raise ValueError(f"training.prompts: {prompt!r}: {error}") from error
        return self

    @model_validator(mode="after")
    def _probe_fits(self) -> "Manifest":
        """Require texts for every precision: by them a server sees whether it computes what was exported."""
        if set(self.probe) != set(self.precisions):
            raise ValueError(f"probe: has {sorted(self.probe)}, expected {sorted(self.precisions)}")
        for precision, texts in self.probe.items():
            if len(texts) != ROWS or any(len(text) > SAMPLED for text in texts):
                raise ValueError(f"probe.{precision}: expected {ROWS} texts of at most {SAMPLED} characters")
            unknown = set("".join(texts)) - set(self.symbols)
            if unknown:
                raise ValueError(f"probe.{precision}: {min(unknown)!r} is not in the vocabulary")
        return self

    def metadata(self) -> dict[str, str]:
        """Return the metadata of each ONNX file, which is enough to use the file without its bundle."""
        return {
            "charstream.format": str(self.format),
            "charstream.name": self.name,
            "charstream.version": self.version,
            "charstream.model": self.model.model_dump_json(),
            "charstream.unit": self.unit,
            "charstream.vocabulary": json.dumps(self.symbols),
            "charstream.start_text": json.dumps(self.start_text),
        }

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.symbols, self.unit)
