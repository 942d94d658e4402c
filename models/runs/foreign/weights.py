"""A user's own torch weights as a model of ours: embedding or one-hot, recurrent layers, linear head."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from charstream.settings_sources import reason_of
from models.network.char_lm import CharLM
from models.network.config import Activation, Cell, ModelConfig
from models.runs.foreign.ends import Sizes, find_ends
from models.runs.foreign.errors import StateDictError
from models.runs.foreign.layers import cell_of, sort_layers

__all__ = ["ForeignModel", "model_of"]


class ForeignModel(NamedTuple):
    """The model, and remarks about its weights for people."""

    model: CharLM
    remarks: list[str]


def model_of(
    tensors: Mapping[str, Tensor],
    vocab: int,
    activation: Activation,
    *,
    head: str | None = None,
    padding: int | None = None,
) -> ForeignModel:
    """Return the model, in eval mode and float32.

    Args:
        tensors: a state dict.
        vocab: characters of its vocabulary, V.
        activation: phi of an nn.RNN, which its tensors do not show.
        head: name of the head's weight, where the state dict does not tell.
        padding: the row of a symbol that only fills up, where the vocabulary has one.

    Raises:
        StateDictError: they are not the tensors of such a model.
    """
    layers, others = sort_layers({name: _as_float32(name, tensor) for name, tensor in tensors.items()})
    cell = cell_of(layers[0])
    hidden, inputs = layers[0]["weight_hh"].shape[1], layers[0]["weight_ih"].shape[1]
    ends = find_ends(others, Sizes(vocab, hidden, inputs, padding), head)
    try:
        config = ModelConfig(
            cell=cell,
            activation=activation if cell == "rnn" else "tanh",
            vocab=vocab,
            input="onehot" if ends.embedding is None else "embedding",
            layers=len(layers),
            hidden=hidden,
            embedding=1 if ends.embedding is None else inputs,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise StateDictError(f"{first['loc'][0]}: {reason_of(first)}") from error
    model = CharLM(config).eval()
    state = {"head.weight": ends.weight, "head.bias": ends.bias}
    state |= {} if ends.embedding is None else {"embedding.weight": ends.embedding}
    state |= {
        f"layers.{number}.{name}": tensor
        for number, layer in enumerate(layers)
        for name, tensor in _with_one_bias(layer, cell).items()
    }
    model.load_state_dict(state)
    return ForeignModel(model, ends.remarks)


def _as_float32(name: object, tensor: Tensor) -> Tensor:
    """Return the tensor in float32. Raises StateDictError if it cannot be weights."""
    if not isinstance(name, str):
        raise StateDictError(f"{name!r}: found as the name of a tensor, expected a text, as in model.state_dict()")
    if tensor.layout is not torch.strided or tensor.is_meta or not tensor.is_floating_point():
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
        raise StateDictError(f"{name}: found {kind}; expected floating-point numbers, strided, on cpu")
    if tensor.numel() > tensor.untyped_storage().nbytes() // tensor.element_size():
        raise StateDictError(f"{name}: an expanded tensor, of more numbers than it keeps; save tensor.contiguous()")
    numbers = tensor.detach().float()
    if not numbers.isfinite().all():
        raise StateDictError(f"{name}: holds NaN, or what is infinite in float32; expected finite numbers")
    return numbers


def _with_one_bias(layer: dict[str, Tensor], cell: Cell) -> dict[str, Tensor]:
    """Return a layer's tensors, both biases added up but in a GRU, whose reset gate scales only one of them."""
    if cell == "gru":
        return layer
    weights = {name: layer[name] for name in ("weight_ih", "weight_hh")}
    return weights | {"bias_ih": layer["bias_ih"] + layer["bias_hh"]}
