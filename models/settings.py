"""What a training run is told: one frozen class, and presets that are a few overrides of its defaults."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from charstream.settings import Settings

__all__ = ["DEFAULT_MINUTES", "PRESETS", "TrainSettings"]

DEFAULT_MINUTES = 15.0

# What a preset changes; a flag changes it again.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "demo": {
        "layers": 1,
        "hidden": 256,
        "embedding": 64,
        "dropout": 0.0,
        "batch": 16,
        "sequence": 64,
        "learning_rate": 1e-2,
    },
}


class TrainSettings(Settings):
    """Trains a character-level LSTM, GRU or RNN with truncated backpropagation over contiguous streams of a text.

    The run's folder gets the best and the last checkpoint and metrics.jsonl. Ctrl-C saves; --resume goes on.
    """

    data: str = Field(
        "",
        description="shakespeare, tinyshakespeare, a text file, a folder of .txt files, or a URL",
    )
    out: Path = Field(description="folder of the run")
    preset: Literal["default", "demo"] = Field(
        "default", description="demo: a small model that learns most in the two minutes of --minutes 2 on two cores"
    )
    cell: Literal["rnn", "gru", "lstm"] = Field("lstm", description="kind of the recurrent layers")
    activation: Literal["tanh", "sigmoid"] = Field("tanh", description="of an rnn's hidden state")
    layers: int = Field(2, ge=1, le=16, description="recurrent layers")
    hidden: int = Field(512, ge=1, le=8192, description="hidden units of a layer")
    embedding: int = Field(128, ge=1, le=8192, description="size of a character's embedding")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of activations dropped in training")
    batch: int = Field(64, ge=1, description="streams of text read side by side")
    sequence: int = Field(128, ge=1, description="characters of a stream per step: how far gradients reach back")
    learning_rate: float = Field(2e-3, gt=0, description="AdamW's learning rate after warm-up, at the cosine's top")
    warmup: int = Field(100, ge=0, description="steps in which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    minutes: float | None = Field(
        None,
        gt=0,
        description=f"time for everything, in minutes (default: {DEFAULT_MINUTES:g}, unless --steps is given)",
    )
    steps: int | None = Field(None, ge=1, description="optimiser steps, instead of --minutes")
    amp: Literal["auto", "off", "bf16"] = Field(
        "auto", description="arithmetic of training: auto times float32 and bfloat16 and takes the faster"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the weights, of dropout and of the samples")
    resume: bool = Field(False, description="go on with the run in --out")
    overwrite: bool = Field(False, description="replace the run in --out")
    json_: bool = Field(False, description="print the result as JSON on stdout")

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {**PRESETS.get(given.get("preset", "default"), {}), **given}

    @model_validator(mode="after")
    def _one_bound(self) -> "TrainSettings":
        if self.minutes is not None and self.steps is not None:
            raise ValueError("give --minutes or --steps, not both")
        return self

    @model_validator(mode="after")
    def _activation_is_an_rnns(self) -> "TrainSettings":
        # With --resume the cell is the run's, and what is given is compared with that.
        if self.cell != "rnn" and self.activation != "tanh" and not self.resume:
            raise ValueError(f"--activation {self.activation} needs --cell rnn, not {self.cell}")
        return self
