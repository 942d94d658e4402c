"""The options that make a model."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bundle.shape import Activation, Cell, Form, ModelShape

__all__ = ["Activation", "Cell", "Form", "Input", "ModelConfig", "Norm"]

Input = Literal["embedding", "onehot"]
Norm = Literal["none", "batch", "layer"]

_GATES = {"rnn": 1, "gru": 3, "lstm": 4}
_MAXOUT_PIECES = 2


class ModelConfig(BaseModel):
    """Enough to build a model and to load its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell = "lstm"
    activation: Activation = Field("tanh", description="phi of an rnn")
    form: Form = Field("post", description="of an rnn: h = phi(W h' + U x + b), or pre: h = W phi(h') + U x + b")
    vocab: int = Field(ge=1, description="characters known, V")
    input: Input = Field("embedding", description="what layer 0 reads: a learned row of numbers, or a unit vector")
    layers: int = Field(2, ge=1, le=16, description="recurrent layers, L")
    hidden: int = Field(512, ge=1, le=8192, description="hidden units of a layer, H")
    embedding: int = Field(128, ge=1, le=8192, description="size of a character's embedding, E; V with onehot")
    dropout_input: float = Field(0.0, ge=0, lt=1, description="dropout on what layer 0 reads")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout between layers")
    dropout_output: float = Field(0.0, ge=0, lt=1, description="dropout before the head")
    locked_dropout: bool = Field(False, description="one mask for all steps of a window (Gal and Ghahramani, 2016)")
    norm: Norm = Field("none", description="normalisation of what the layer above, or the head, reads")
    residual: bool = Field(False, description="a layer adds to what it reads, from the second layer on")

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

    @property
    def gates(self) -> int:
        """Sums a hidden unit has: a layer's weights are [gates x H, ...]."""
        pieces = _MAXOUT_PIECES if (self.activation, self.form) == ("maxout", "post") else 1
        return _GATES[self.cell] * pieces

    @property
    def output(self) -> int:
        """Size of what a layer hands up and reads again, O: H, or H/2 where maxout pools the state."""
        return self.hidden // _MAXOUT_PIECES if (self.activation, self.form) == ("maxout", "pre") else self.hidden

    @property
    def inputs(self) -> int:
        """Size of what layer 0 reads."""
        return self.vocab if self.input == "onehot" else self.embedding

    @property
    def shape(self) -> ModelShape:
        """What a bundle says of it."""
        return ModelShape(
            cell=self.cell,
            activation=self.activation,
            form=self.form,
            norm="layer" if self.norm == "layer" else "none",
            residual=self.residual,
            layers=self.layers,
            hidden=self.hidden,
        )
