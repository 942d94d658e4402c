"""What the graphs of a bundle compute, as far as their tensors and their arithmetic depend on it."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["BOUNDED", "Activation", "Cell", "Form", "Hidden", "Layers", "ModelShape"]

Cell = Literal["rnn", "gru", "lstm"]
Activation = Literal["tanh", "sigmoid", "relu", "leaky_relu", "prelu", "elu", "softplus", "hardtanh", "maxout", "rbf"]
Form = Literal["post", "pre"]
Layers = Annotated[int, Field(ge=1, le=16)]
Hidden = Annotated[int, Field(ge=1, le=8192)]

# Activations whose values lie between -1 and 1 whatever they are given.
BOUNDED = frozenset({"tanh", "sigmoid", "hardtanh", "rbf"})


class ModelShape(BaseModel):
    """The cells, and the sizes of the graphs' tensors: V is the vocabulary's length."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    activation: Activation = Field("tanh", description="phi of an rnn")
    form: Form = Field("post", description="of an rnn: h = phi(W h' + U x + b), or pre: h = W phi(h') + U x + b")
    norm: Literal["none", "layer"] = Field("none", description="of what is read; batch normalisation is in the weights")
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
        """The tensors of a layer's state."""
        return ("h", "c") if self.cell == "lstm" else ("h",)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Inputs that carry the state, each float32 [B, hidden]: h0, h1, ...; h0, c0, h1, c1, ... of an LSTM."""
        return tuple(f"{kind}{layer}" for layer in range(self.layers) for kind in self.kinds)

    @property
    def bounded_state(self) -> bool:
        """Whether every h lies between -1 and 1 by construction."""
        return self.form == "post" and self.activation in BOUNDED
