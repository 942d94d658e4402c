"""The settings of a training run: flags, presets, and the command that has them."""

import shlex
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from bundle.pretrained import locate
from bundle.vocabulary import Unit
from charstream.settings import Negatable, Settings
from models.data.split import DEFAULT_SPLIT
from models.data.text_files import PLAIN, TextForm
from models.network.config import Init, ModelConfig, ModelOptions, Rate

__all__ = [
    "DEFAULT_MINUTES",
    "PRESETS",
    "Optimizer",
    "Schedule",
    "TrainSettings",
    "add_defaults",
    "given_names",
    "overrides",
    "train_command",
]

DEFAULT_MINUTES = 15.0
DEFAULT_WEIGHT_DECAY = 0.01  # of adamw
DISTILL_WEIGHT = 0.9
# They say where a run goes and what is printed, not what is trained.
_NOT_TRAINING = {"out", "preset", "resume", "overwrite", "json_", "profile"}

Optimizer = Literal["adamw", "adam", "rmsprop", "adagrad", "momentum", "sgd"]
Schedule = Literal["cosine", "constant", "step", "exponential"]

# For a text of a million characters: one wide GRU, small batches, a high learning rate, beginning anew often, and few
# readings: more of them, and dropout, made it worse (docs/decisions.md).
_SHAKESPEARE: dict[str, Any] = {
    "cell": "gru",
    "layers": 1,
    "hidden": 768,
    "embedding": 64,
    "recurrent_norm": "layer",
    "init": "orthogonal",
    "dropout": 0.0,
    "batch": 32,
    "sequence": 64,
    "restart_every": 8,
    "learning_rate": 4e-3,
    "characters": 3_300_000,
}

# Configurations by name: a few overrides of the defaults below, which flags override again.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # A small model that learns most in the two minutes of --minutes 2 on two cores.
    "demo": {
        "layers": 1,
        "hidden": 256,
        "embedding": 64,
        "dropout": 0.0,
        "batch": 16,
        "sequence": 64,
        "shuffle": True,
        "restart_every": 8,
        "learning_rate": 1e-2,
    },
    # The fastest to serve of those that reach 1.55 nats on tinyshakespeare (docs/training.md).
    "tiny": {
        "cell": "gru",
        "layers": 1,
        "hidden": 160,
        "embedding": 64,
        "dropout": 0.0,
        "batch": 16,
        "sequence": 64,
        "shuffle": True,
        "restart_every": 8,
        "learning_rate": 7e-3,
        "warmup": 200,
        "characters": 5_000_000,
    },
    "shakespeare": _SHAKESPEARE,
    # The same, wider, in twice the steps: 0.02 nats less (docs/quality.md).
    "best": {**_SHAKESPEARE, "hidden": 1280, "batch": 16, "learning_rate": 2.2e-3, "warmup": 200},
    # Karpathy's char-rnn (2015): its sizes, its split and its update, clipped as a sum over the window. The learning
    # rate ends where its ends after 50 epochs, 0.97^40 of where it began.
    "char-rnn": {
        "input": "onehot",
        "layers": 2,
        "hidden": 128,
        "dropout": 0.0,
        "batch": 50,
        "sequence": 50,
        "optimizer": "rmsprop",
        "rmsprop_decay": 0.95,
        "learning_rate": 2e-3,
        "schedule": "step",
        "decay": 0.3,
        "decay_steps": 40,
        "warmup": 0,
        "init": "uniform",
        "init_scale": 0.08,
        "loss": "sum",
        "clip_norm": 0.0,
        "clip_value": 5.0,
        "restart_every": 0,
        "split": "0.95,0.05",
    },
    # Karpathy's min-char-rnn (112 lines of NumPy, 2015), the program of the lectures.
    "min-char-rnn": {
        "cell": "rnn",
        "input": "onehot",
        "layers": 1,
        "hidden": 100,
        "dropout": 0.0,
        "batch": 1,
        "sequence": 25,
        "optimizer": "adagrad",
        "learning_rate": 0.1,
        "schedule": "constant",
        "warmup": 0,
        "init": "normal",
        "init_scale": 0.01,
        "loss": "sum",
        "clip_norm": 0.0,
        "clip_value": 5.0,
        "restart_every": 0,
    },
}


class _Text(Settings):
    """The text, and how it is read."""

    data: str = Field("", description="shakespeare, tinyshakespeare, a text file, a folder of .txt files, or a URL")
    out: Path = Field(description="folder of the run")
    preset: Literal["default", "demo", "tiny", "shakespeare", "best", "char-rnn", "min-char-rnn"] = Field(
        "default",
        description="a configuration by name, which other flags override. default: a large one, for a long run; demo: "
        "a small one, for two minutes; tiny: the fastest to serve that still writes well; shakespeare: for a text of a "
        "million characters, in minutes; best: the same, wider and slower; char-rnn: Karpathy's of 2015; min-char-rnn: "
        "the 112 lines of the lectures",
    )
    vocabulary: Unit = Field("characters", description="what is predicted: code points or UTF-8 bytes")
    split: str = Field(DEFAULT_SPLIT, description="shares of the text: training,validation or training,validation,test")
    glob: str = Field(PLAIN.glob, min_length=1, description="names of the files that a folder's text is in")
    encoding: str = Field(PLAIN.encoding, min_length=1, description="of the text's files, such as utf-16 or cp1252")
    batch: int = Field(64, ge=1, description="streams of text read side by side")
    sequence: int = Field(128, ge=1, description="characters of a stream per step: how far gradients reach back")
    shuffle: Annotated[bool, Negatable()] = Field(
        False,
        description="streams read pieces of --restart-every windows in a random order, another one in every epoch, "
        "instead of a stripe each",
    )
    random_offsets: bool = Field(False, description="streams begin elsewhere in every epoch")
    replace_rate: Rate = Field(0.0, description="share of the characters read that are replaced by random ones")
    drop_rate: Rate = Field(0.0, description="share of the text's characters that are left out when it is read")
    restart_every: int = Field(
        32, ge=0, description="windows after which a stream begins anew from the initial state; 0: never"
    )


class _Model(ModelOptions, Settings):
    """The model, and its first weights."""

    dropout: Rate = Field(0.3, description="share of activations dropped in training, between layers")
    init: Init = Field("torch", description="distribution of the first weights")
    init_scale: float = Field(0.01, gt=0, description="standard deviation of --init normal, bound of --init uniform")
    forget_bias: float = Field(1.0, description="first bias of an LSTM's forget gates")
    init_from: Path | None = Field(
        None,
        description="begin with the weights of another run, of a bundle, or with `pretrained`, which comes with "
        "charstream; characters are matched by what they are, and model options that are not given are its own",
    )


class _Optimisation(Settings):
    """The loss and the update rule."""

    loss: Literal["mean", "sum"] = Field(
        "mean", description="over a window's characters; sum: over time, mean over streams"
    )
    distill_from: tuple[Path, ...] = Field(
        (),
        description="learn from what a trained model gives the text, too: another run, a bundle or `pretrained`; "
        "given several times, from the mean of their probabilities",
    )
    distill_weight: float = Field(
        DISTILL_WEIGHT, ge=0, le=1, description="share of the loss that is against their probabilities, not the text"
    )
    optimizer: Optimizer = Field("adamw", description="update rule")
    learning_rate: float = Field(2e-3, gt=0, description="the highest learning rate")
    schedule: Schedule = Field("cosine", description="course of the learning rate after warm-up")
    warmup: int = Field(100, ge=0, description="steps in which the learning rate rises, a fifth of all at most")
    decay: float = Field(
        0.1, gt=0, le=1, description="where step and exponential end, as a share of the highest learning rate"
    )
    decay_steps: int = Field(5, ge=1, description="how many equal falls --schedule step makes")
    beta1: Rate = Field(0.9, description="Adam's decay of the gradient's mean")
    beta2: Rate = Field(0.99, description="Adam's decay of the gradient's mean square")
    momentum: Rate = Field(0.9, description="decay of --optimizer momentum")
    rmsprop_decay: Rate = Field(0.99, description="decay of rmsprop's mean square")
    weight_decay: float | None = Field(
        None,
        ge=0,
        description="matrices shrink by learning rate x this each step "
        f"(default: {DEFAULT_WEIGHT_DECAY} for adamw, else 0)",
    )
    l1: float = Field(0.0, ge=0, description="adds this times the sum of the matrices' absolute values to the loss")
    l2: float = Field(0.0, ge=0, description="adds this times half of their sum of squares to the loss")
    clip_norm: float = Field(1.0, ge=0, description="largest norm of the gradient; 0: any")
    clip_value: float = Field(0.0, ge=0, description="largest absolute value of a gradient's element; 0: any")
    ema: Rate = Field(
        0.0, description="decay of a running mean of the weights, which is validated and kept as best; 0: none"
    )
    patience: int = Field(0, ge=0, description="stop after so many validations without a better one; 0: never")


class _Run(Settings):
    """How long a run takes, and where it runs."""

    minutes: float | None = Field(
        None,
        gt=0,
        description="time for everything, in minutes "
        f"(default: {DEFAULT_MINUTES:g}, unless --steps or --characters is given)",
    )
    steps: int | None = Field(None, ge=1, description="optimiser steps, instead of --minutes")
    characters: int | None = Field(
        None, ge=1, description="characters to train on, at most; those read again count again"
    )
    precision: Literal["auto", "fp32", "bf16", "fp64"] = Field(
        "auto", description="arithmetic of training: auto times fp32, bf16 and on a GPU TF32, and takes the fastest"
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        examples=["auto", "cpu", "cuda", "cuda:1"],
        description="auto, cpu, cuda or cuda:N",
    )
    threads: int | None = Field(
        None, ge=1, description="of the processor (default: as many as are fastest, timed at first and every minute)"
    )
    profile: bool = Field(
        False, description="first tell what a step takes on this processor, beside what its products take alone"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the weights, of dropout, of noise and of the samples")
    tensorboard: bool = Field(False, description="also write TensorBoard's files into the run's folder")
    resume: bool = Field(False, description="go on with the run in --out")
    overwrite: bool = Field(False, description="replace the run in --out")
    json_: bool = Field(False, description="print the result as JSON on stdout")


class TrainSettings(_Run, _Optimisation, _Model, _Text):
    """Trains a character-level LSTM, GRU or RNN with truncated backpropagation over contiguous streams of a text.

    The run's folder gets the best and the last checkpoint and metrics.jsonl. Ctrl-C saves; --resume goes on. Under
    torchrun the streams are shared between the processes.
    """

    stray_word: ClassVar = "the text is --data FILE, the run is --out FOLDER"

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {**PRESETS.get(given.get("preset", "default"), {}), **given} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if self.minutes is not None and self.steps is not None:
            raise ValueError("give --minutes or --steps, not both")
        return self

    @model_validator(mode="after")
    def _model_is_possible(self) -> Self:
        # With --resume the other options are the run's, and what is given is compared with them.
        if not self.resume:
            try:
                self.model_of(vocab=1)
            except ValidationError as error:
                raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        return self

    @field_validator("distill_from")
    @classmethod
    def _teachers_are_found_again(cls, paths: tuple[Path, ...]) -> tuple[Path, ...]:
        # A resumed run finds them from any working directory.
        return tuple(path.absolute() if locate(path) == path else path for path in paths)

    @model_validator(mode="after")
    def _weight_has_teachers(self) -> Self:
        if self.distill_weight != DISTILL_WEIGHT and not (self.resume or self.distill_from):
            raise ValueError("--distill-weight is the teachers' share of the loss: --distill-from RUN gives a teacher")
        return self

    @model_validator(mode="after")
    def _batch_norm_has_a_batch(self) -> Self:
        if not self.resume and self.norm == "batch" and self.batch * self.sequence == 1:
            raise ValueError("--norm batch has no variance of one character: --batch or --sequence must be 2 at least")
        return self

    @model_validator(mode="after")
    def _pieces_have_a_length(self) -> Self:
        if not self.resume and self.shuffle and not self.restart_every:
            raise ValueError(
                "--shuffle reads pieces of --restart-every windows, and 0 is none: give a number, or --no-shuffle"
            )
        return self

    @property
    def text_form(self) -> TextForm:
        """Which files of a folder are the text, and their encoding."""
        return TextForm(self.glob, self.encoding)

    @property
    def minutes_limit(self) -> float | None:
        """Minutes for everything; None where only steps or characters bound the run."""
        return self.minutes or (None if self.steps or self.characters else DEFAULT_MINUTES)

    @property
    def matrix_decay(self) -> float:
        """The decoupled weight decay, given or by default."""
        if self.weight_decay is None:
            return DEFAULT_WEIGHT_DECAY if self.optimizer == "adamw" else 0.0
        return self.weight_decay

    def model_of(self, vocab: int) -> ModelConfig:
        """Return the configuration of the model for a vocabulary of `vocab` characters."""
        names = ModelConfig.model_fields.keys() & type(self).model_fields.keys()
        at_the_ends = {
            name: self.dropout if getattr(self, name) is None else getattr(self, name)
            for name in ("dropout_input", "dropout_output")
        }
        return ModelConfig(vocab=vocab, **{name: getattr(self, name) for name in names} | at_the_ends)


def add_defaults(kept: Any) -> Any:
    """Return the settings that a run kept, with the defaults of those that are newer than the run.

    A run keeps all settings that its version had. So what is missing is no word of its preset, which says more by now.
    """
    if not isinstance(kept, dict):
        return kept
    fields = TrainSettings.model_fields.items()
    return {name: field.default for name, field in fields if not field.is_required()} | kept


def given_names(given: TrainSettings, kept: TrainSettings) -> set[str]:
    """Return the names of the settings that were given to go on with a run which kept others.

    A preset of the name that the run has says nothing new, though it may say something else than when the run began.
    """
    usual = PRESETS[given.preset] if given.preset == kept.preset else {}
    return {name for name in given.model_fields_set if name not in usual or getattr(given, name) != usual[name]}


def overrides(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings of training that differ from their preset's, by name; `settings` may be of a subclass."""
    usual = TrainSettings(preset=settings.preset, out=settings.out)
    names = [name for name in TrainSettings.model_fields if name not in _NOT_TRAINING]
    return {name: getattr(settings, name) for name in names if getattr(settings, name) != getattr(usual, name)}


def train_command(settings: TrainSettings) -> str:
    """Return the command that trains with these settings."""
    words = ["charstream", "train"]
    if settings.preset != "default":
        words += ["--preset", settings.preset]
    for name, value in overrides(settings).items():
        flag = name.rstrip("_").replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{flag}")
        else:
            for single in value if isinstance(value, tuple) else (value,):
                words += [f"--{flag}", str(single).removesuffix(".0") if isinstance(single, float) else str(single)]
    return shlex.join([*words, "--out", str(settings.out)])
