"""The character language model: characters in, logits of the next character out, state carried by the caller."""

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from models.elman import ElmanRNN

__all__ = ["CharLM", "ModelConfig", "State"]

# One tensor [B, H] per layer and kind, in the order of `CharLM.state_names`.
State = tuple[Tensor, ...]


class ModelConfig(BaseModel):
    """The sizes that make a model: enough to build it and to load its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Literal["rnn", "gru", "lstm"] = "lstm"
    activation: Literal["tanh", "sigmoid"] = Field("tanh", description="of an rnn's hidden state")
    vocab: int = Field(ge=1, description="characters known, V")
    layers: int = Field(2, ge=1, le=16, description="recurrent layers, L")
    hidden: int = Field(512, ge=1, le=8192, description="hidden units of a layer, H")
    embedding: int = Field(128, ge=1, le=8192, description="size of a character's embedding, E")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the embedding, between layers and before the head")

    @model_validator(mode="after")
    def _activation_is_an_rnns(self) -> Self:
        if self.cell != "rnn" and self.activation != "tanh":
            raise ValueError(f"only the cell rnn has a choice of activation: {self.activation} with {self.cell}")
        return self


class CharLM(nn.Module):
    """Embedding -> recurrent layers -> linear head.

    Its weights: `embedding.weight` [V, E], `recurrent.*` as torch names them (gates of an LSTM in the order i f g o, of
    a GRU r z n), `head.weight` [V, H], `head.bias` [V].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.embedding)
        self.recurrent = _recurrent(config)
        self.head = nn.Linear(config.hidden, config.vocab)
        self.dropout = nn.Dropout(config.dropout)
        if config.cell == "lstm":
            self._remember_at_first()

    def _remember_at_first(self) -> None:
        """Forget gates begin open (Jozefowicz et al., 2015): what a cell holds, it keeps until it learns better."""
        forget = slice(self.config.hidden, 2 * self.config.hidden)
        with torch.no_grad():
            for layer in range(self.config.layers):
                self.recurrent.get_parameter(f"bias_ih_l{layer}")[forget] += 1.0

    @property
    def state_names(self) -> tuple[str, ...]:
        """h0, h1, ...; h0, c0, h1, c1, ... of an LSTM."""
        kinds = ("h", "c") if self.config.cell == "lstm" else ("h",)
        return tuple(f"{kind}{layer}" for layer in range(self.config.layers) for kind in kinds)

    def initial_state(self, batch: int) -> State:
        """Zeros, as every text begins: one [batch, H] per name of `state_names`."""
        weight = self.head.weight
        return tuple(weight.new_zeros(batch, self.config.hidden) for _ in self.state_names)

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Runs T steps: ids [T, B] int64 -> logits [T, B, V] and the state after the last step."""
        x = self.dropout(self.embedding(ids))
        if self.config.cell == "lstm":
            x, (h, c) = self.recurrent(x, (torch.stack(state[0::2]), torch.stack(state[1::2])))
            after = tuple(tensor for pair in zip(h.unbind(), c.unbind(), strict=True) for tensor in pair)
        else:
            x, h = self.recurrent(x, torch.stack(state))
            after = h.unbind()
        return self.head(self.dropout(x)), after


def _recurrent(config: ModelConfig) -> nn.Module:
    """The layers: x [T, B, E] and the state, [L, B, H] or an LSTM's pair of them -> h [T, B, H] and the state after."""
    sizes = config.embedding, config.hidden, config.layers
    between = config.dropout if config.layers > 1 else 0.0
    if config.cell == "lstm":
        return nn.LSTM(*sizes, dropout=between)
    if config.cell == "gru":
        return nn.GRU(*sizes, dropout=between)
    if config.activation == "tanh":
        return nn.RNN(*sizes, dropout=between)
    return ElmanRNN(*sizes, phi=torch.sigmoid, dropout=between)
