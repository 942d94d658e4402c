"""The character language model: characters in, logits of the next character out, state carried by the caller."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

__all__ = ["CharLM", "ModelConfig", "State"]

# One tensor [B, H] per layer and kind, in the order of `CharLM.state_names`: h0, c0, h1, c1, ...
State = tuple[Tensor, ...]


class ModelConfig(BaseModel):
    """The sizes that make a model: enough to build it and to load its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Literal["lstm"] = "lstm"
    vocab: int = Field(ge=1, description="characters known, V")
    layers: int = Field(2, ge=1, le=16, description="recurrent layers, L")
    hidden: int = Field(512, ge=1, le=8192, description="hidden units of a layer, H")
    embedding: int = Field(128, ge=1, le=8192, description="size of a character's embedding, E")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the embedding, between layers and before the head")


class CharLM(nn.Module):
    """Embedding -> LSTM layers -> linear head.

    Its weights: `embedding.weight` [V, E], `lstm.*` as torch names them (gates in the order i f g o),
    `head.weight` [V, H], `head.bias` [V].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        between = config.dropout if config.layers > 1 else 0.0
        self.embedding = nn.Embedding(config.vocab, config.embedding)
        self.lstm = nn.LSTM(config.embedding, config.hidden, config.layers, dropout=between)
        self.head = nn.Linear(config.hidden, config.vocab)
        self.dropout = nn.Dropout(config.dropout)
        self._remember_at_first()

    def _remember_at_first(self) -> None:
        """Forget gates begin open (Jozefowicz et al., 2015): what a cell holds, it keeps until it learns better."""
        forget = slice(self.config.hidden, 2 * self.config.hidden)
        with torch.no_grad():
            for layer in range(self.config.layers):
                self.lstm.get_parameter(f"bias_ih_l{layer}")[forget] += 1.0

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(f"{kind}{layer}" for layer in range(self.config.layers) for kind in ("h", "c"))

    def initial_state(self, batch: int) -> State:
        """Zeros, as every text begins: one [batch, H] per name of `state_names`."""
        weight = self.head.weight
        return tuple(weight.new_zeros(batch, self.config.hidden) for _ in self.state_names)

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Runs T steps: ids [T, B] int64 -> logits [T, B, V] and the state after the last step."""
        x = self.dropout(self.embedding(ids))
        x, (h, c) = self.lstm(x, (torch.stack(state[0::2]), torch.stack(state[1::2])))
        logits = self.head(self.dropout(x))
        return logits, tuple(tensor for pair in zip(h.unbind(), c.unbind(), strict=True) for tensor in pair)
