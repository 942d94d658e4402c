"""The facts of a model that its graphs depend on: cells, activations, sizes.

They are part of the bundle's format. Whoever makes or reads a bundle takes the names and bounds from here.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["BOUNDED", "BOUNDED_CELLS", "NORM_EPSILON", "Activation", "Cell", "Form", "Hidden", "Layers", "ModelShape"]

Cell = Literal["rnn", "gru", "lstm"]
Activation = Literal["tanh", "sigmoid", "relu", "leaky_relu", "prelu", "elu", "softplus", "hardtanh", "maxout", "rbf"]
# Where an rnn applies its activation phi: h = phi(W h' + U x + b), or h = W phi(h') + U x + b.
Form = Literal["post", "pre"]
Layers = Annotated[int, Field(ge=1, le=16)]
Hidden = Annotated[int, Field(ge=1, le=8192)]

# The activations whose values lie between -1 and 1 for every input.
BOUNDED: frozenset[Activation] = frozenset({"tanh", "sigmoid", "hardtanh", "rbf"})
# What a layer normalisation adds to the variance, as torch's own does.
NORM_EPSILON = 1e-5
# The cells whose h lies between -1 and 1 by construction; an rnn's does if its activation is bounded.
BOUNDED_CELLS: frozenset[Cell] = frozenset({"gru", "lstm"})


class ModelShape(BaseModel):
    """The cells of a model and the sizes of its graphs' tensors, apart from the vocabulary's length."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    activation: Activation = Field("tanh", description="phi of an rnn")
    form: Form = Field("post", description="of an rnn: h = phi(W h' + U x + b), or pre: h = W phi(h') + U x + b")
    norm: Literal["none", "layer"] = Field("none", description="of what is read; batch normalisation is in the weights")
    # Left out where there is none: what was written before there was a choice keeps its bytes, and so its digest.
    recurrent_norm: Literal["none", "layer"] = Field(
        "none", exclude_if=lambda norm: norm == "none", description="of W h' in each step, for each gate by itself"
    )
    residual: bool = Field(False, description="a layer adds to what it reads, from the second layer on")
    layers: Layers
    hidden: Hidden

    @model_validator(mode="after")
    def _only_an_rnn_has_a_choice(self) -> Self:
        if self.cell != "rnn" and (self.activation, self.form) != ("tanh", "post"):
            raise ValueError(f"only the cell rnn has a choice of activation and form, not {self.cell}")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of tensors in a layer's hidden state."""
        return ("h", "c") if self.cell == "lstm" else ("h",)

    @property
    def state_names(self) -> tuple[str, ...]:
        """The inputs that carry the hidden state, each float32 [B, hidden]: h0, h1, ...; for an LSTM h0, c0, h1, ..."""
        return tuple(f"{kind}{layer}" for layer in range(self.layers) for kind in self.kinds)

    @property
    def bounded_state(self) -> bool:
        """Whether every h lies between -1 and 1 by construction."""
        if self.cell == "rnn":
            return self.form == "post" and self.activation in BOUNDED
        return self.cell in BOUNDED_CELLS
