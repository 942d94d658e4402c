"""The options that make a model."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bundle.shape import Activation, Cell, Form, Hidden, Layers, ModelShape

__all__ = [
    "Activation",
    "Cell",
    "Form",
    "Init",
    "Input",
    "ModelConfig",
    "ModelOptions",
    "Norm",
    "Rate",
    "RecurrentNorm",
]

Input = Literal["embedding", "onehot"]
Norm = Literal["none", "batch", "layer"]
RecurrentNorm = Literal["none", "layer"]
Init = Literal[
    "torch", "xavier_uniform", "xavier_normal", "lecun_normal", "he", "orthogonal", "normal", "uniform", "zeros"
]
Rate = Annotated[float, Field(ge=0, lt=1)]

_GATES = {"rnn": 1, "gru": 3, "lstm": 4}
_MAXOUT_PIECES = 2


class ModelOptions(BaseModel):
    """The options of a model that a user chooses; the settings of training have them as flags."""

    cell: Cell = Field("lstm", description="kind of the recurrent layers")
    activation: Activation = Field("tanh", description="phi of an rnn")
    form: Form = Field("post", description="of an rnn, post: h = phi(W h' + U x + b), or pre: h = W phi(h') + U x + b")
    input: Input = Field("embedding", description="what the first layer reads of a character")
    layers: Layers = Field(2, description="recurrent layers")
    hidden: Hidden = Field(512, description="hidden units of a layer")
    embedding: int = Field(128, ge=1, le=8192, description="size of a character's embedding")
    dropout: Rate = Field(0.0, description="share of activations dropped in training, between layers")
    dropout_input: Rate | None = Field(
        None, description="the same of what the first layer reads (default: as --dropout)"
    )
    dropout_output: Rate | None = Field(None, description="the same before the head (default: as --dropout)")
    locked_dropout: bool = Field(False, description="dropout masks stay the same along a window")
    weight_drop: Rate = Field(
        0.0, description="share of the recurrent weights dropped in training, the same along a window"
    )
    norm: Norm = Field("none", description="normalisation of what the layer above, or the head, reads")
    recurrent_norm: RecurrentNorm = Field(
        "none", description="layer: W h' is normalised in each step, for each gate by itself (layer normalisation)"
    )
    residual: bool = Field(False, description="a layer adds to what it reads, from the second on")


class ModelConfig(ModelOptions):
    """Enough to build a model and to load its weights.

    Of the sizes below V is `vocab`, E `embedding` (V with one-hot input), L `layers` and H `hidden`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab: int = Field(ge=1, description="characters known")
    dropout_input: Rate = 0.0
    dropout_output: Rate = 0.0

    @model_validator(mode="after")
    def _only_an_rnn_has_a_choice(self) -> Self:
        for name in ("activation", "form"):
            value, usual = getattr(self, name), type(self).model_fields[name].default
            if self.cell != "rnn" and value != usual:
                raise ValueError(f"only the cell rnn has a choice of {name}: {value} with {self.cell}")
        return self

    @model_validator(mode="after")
    def _maxout_pools_pairs(self) -> Self:
        if (self.activation, self.form) == ("maxout", "pre") and self.hidden % 2:
            raise ValueError(f"maxout of the form pre pools pairs of hidden units: {self.hidden} is odd")
        return self

    @model_validator(mode="after")
    def _one_unit_is_not_normalised(self) -> Self:
        if self.recurrent_norm == "layer" and self.hidden < 2:
            raise ValueError(
                "recurrent_norm layer needs 2 hidden units at least: a single one, normalised, is always 0"
            )
        return self

    @property
    def gates(self) -> int:
        """The number of sums that a hidden unit has: a layer's weights are [gates x H, ...]."""
        pieces = _MAXOUT_PIECES if (self.activation, self.form) == ("maxout", "post") else 1
        return _GATES[self.cell] * pieces

    @property
    def output(self) -> int:
        """The size of what a layer hands up and reads again, O: H, or H/2 where maxout pools the state."""
        return self.hidden // _MAXOUT_PIECES if (self.activation, self.form) == ("maxout", "pre") else self.hidden

    @property
    def inputs(self) -> int:
        """The size of what layer 0 reads."""
        return self.vocab if self.input == "onehot" else self.embedding

    @property
    def shape(self) -> ModelShape:
        """The part of the options that a bundle's manifest holds."""
        return ModelShape(
            cell=self.cell,
            activation=self.activation,
            form=self.form,
            norm="layer" if self.norm == "layer" else "none",
            recurrent_norm=self.recurrent_norm,
            residual=self.residual,
            layers=self.layers,
            hidden=self.hidden,
        )
