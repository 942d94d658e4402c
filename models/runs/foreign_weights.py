"""A user's own torch weights, recognised by shape: embedding or one-hot, nn.LSTM, nn.GRU or nn.RNN, linear head.

The names of the modules do not matter; only those that torch gives a recurrent layer's own tensors do.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor

from charstream.settings_sources import reason_of
from models.network.char_lm import CharLM
from models.network.config import Activation, Cell, ModelConfig

__all__ = ["ForeignModel", "StateDictError", "model_of"]

_OF_LAYER = re.compile(
    r"(?P<module>.*?)(?P<kind>weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)_l(?P<layer>\d+)(?P<reverse>_reverse)?"
)
_CELLS: dict[int, Cell] = {1: "rnn", 3: "gru", 4: "lstm"}
_EXPECTED = "expected are nn.Embedding or one-hot input, one nn.LSTM, nn.GRU or nn.RNN, and one nn.Linear"


class StateDictError(ValueError):
    """The tensors are not those of a model that can be imported; the message is one line: found, expected."""


@dataclass(frozen=True)
class ForeignModel:
    """The recurrent part's tensors by layer and kind, and all others by name."""

    layers: list[dict[str, Tensor]]
    others: dict[str, Tensor]

    @property
    def hidden(self) -> int:
        return self.layers[0]["weight_hh"].shape[1]

    @property
    def inputs(self) -> int:
        return self.layers[0]["weight_ih"].shape[1]


def model_of(tensors: Mapping[str, Tensor], vocab: int, activation: Activation) -> CharLM:
    """Return the model, in eval mode and float32.

    Args:
        tensors: a state dict.
        vocab: characters of its vocabulary, V.
        activation: phi of an nn.RNN, which its tensors do not show.

    Raises:
        StateDictError: they are not the tensors of such a model.
    """
    foreign = _sort(tensors)
    cell = _cell(foreign)
    embedding, weight, bias = _input_and_head(foreign, vocab)
    try:
        config = ModelConfig(
            cell=cell,
            activation=activation if cell == "rnn" else "tanh",
            vocab=vocab,
            input="onehot" if embedding is None else "embedding",
            layers=len(foreign.layers),
            hidden=foreign.hidden,
            embedding=1 if embedding is None else foreign.inputs,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise StateDictError(f"{first['loc'][0]}: {reason_of(first)}") from error
    model = CharLM(config).eval()
    around = {"head.weight": weight, "head.bias": bias} | ({} if embedding is None else {"embedding.weight": embedding})
    state = around | {
        f"layers.{number}.{name}": tensor
        for number, layer in enumerate(foreign.layers)
        for name, tensor in _with_one_bias(layer, cell).items()
    }
    model.load_state_dict(state)
    return model


def _sort(tensors: Mapping[str, Tensor]) -> ForeignModel:
    layers: dict[int, dict[str, Tensor]] = {}
    modules, others = set(), {}
    for name, tensor in tensors.items():
        numbers = _as_float32(name, tensor)
        found = _OF_LAYER.fullmatch(name)
        if not found:
            others[name] = numbers
            continue
        _require_plain(name, found)
        modules.add(found["module"])
        layers.setdefault(int(found["layer"]), {})[found["kind"]] = numbers
    if len(modules) != 1:
        raise StateDictError(f"{_list(modules) if modules else _shapes(tensors)}: {_EXPECTED}")
    return ForeignModel([_complete_layer(layers, number) for number in range(len(layers))], others)


def _as_float32(name: object, tensor: Tensor) -> Tensor:
    """Return the tensor in float32. Raises StateDictError if it cannot be weights."""
    if not isinstance(name, str):
        raise StateDictError(f"{name!r}: found as the name of a tensor, expected a text, as in model.state_dict()")
    if tensor.layout is not torch.strided or tensor.is_meta or not tensor.is_floating_point():
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
        raise StateDictError(f"{name}: found {kind}; expected floating-point numbers, strided, on cpu")
    numbers = tensor.detach().float()
    if not numbers.isfinite().all():
        raise StateDictError(f"{name}: holds NaN, or what is infinite in float32; expected finite numbers")
    return numbers


def _require_plain(name: str, found: re.Match[str]) -> None:
    if found["reverse"]:
        raise StateDictError(f"{name}: a bidirectional layer reads what is still to come, so it cannot write a text")
    if found["kind"] == "weight_hr":
        raise StateDictError(f"{name}: an LSTM with proj_size is not supported, train it with proj_size=0")


def _complete_layer(layers: dict[int, dict[str, Tensor]], number: int) -> dict[str, Tensor]:
    """Check a layer's tensors, and return all four of them, with biases of zeros where it has none."""
    layer, first = layers.get(number, {}), layers[min(layers)]
    if not {"weight_ih", "weight_hh"} <= layer.keys():
        raise StateDictError(f"layer {number} has no weight_ih_l{number} and weight_hh_l{number}: {_EXPECTED}")
    for kind in ("weight_ih", "weight_hh"):
        if layer[kind].ndim != 2:
            raise StateDictError(f"{kind}_l{number}: found {list(layer[kind].shape)}, expected two axes")
    rows, hidden = layer["weight_hh"].shape
    inputs = layer["weight_ih"].shape[1] if number == 0 else hidden
    wanted = {
        "weight_ih": (rows, inputs),
        "weight_hh": first["weight_hh"].shape,
        "bias_ih": (rows,),
        "bias_hh": (rows,),
    }
    layer = {kind: layer.get(kind, torch.zeros(rows)) for kind in wanted}
    for kind, shape in wanted.items():
        if layer[kind].shape != shape:
            raise StateDictError(f"{kind}_l{number}: found {list(layer[kind].shape)}, expected {list(shape)}")
    return layer


def _cell(foreign: ForeignModel) -> Cell:
    rows, hidden = foreign.layers[0]["weight_hh"].shape
    for gates, cell in _CELLS.items():
        if rows == gates * hidden > 0:
            return cell
    raise StateDictError(f"weight_hh_l0: found {[rows, hidden]}, expected are 1, 3 or 4 times as many rows as columns")


def _input_and_head(foreign: ForeignModel, vocab: int) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the embedding [V, E], None if the input is one-hot, and the head's weight [V, H] and bias [V]."""
    head = _head(foreign, vocab)
    bias_name = head.removesuffix("weight") + "bias"
    bias = foreign.others.get(bias_name, torch.zeros(vocab))
    if bias.shape != (vocab,):
        raise StateDictError(f"{bias_name}: found {list(bias.shape)}, expected {[vocab]}, one for each character")
    rest = {name: tensor for name, tensor in foreign.others.items() if name not in (head, bias_name)}
    if not rest and foreign.inputs == vocab:
        return None, foreign.others[head], bias
    if [tensor.shape for tensor in rest.values()] != [(vocab, foreign.inputs)]:
        raise StateDictError(
            f"besides recurrent layers and head found {_shapes(rest) or 'nothing'}, "
            f"expected one embedding of [{vocab} characters, {foreign.inputs} inputs of the first layer]"
        )
    (embedding,) = rest.values()
    return embedding, foreign.others[head], bias


def _head(foreign: ForeignModel, vocab: int) -> str:
    """Return the name of the head's weight: among several of its shape the one with a bias, else the last one."""
    shaped = [name for name, tensor in foreign.others.items() if tensor.shape == (vocab, foreign.hidden)]
    with_bias = [name for name in shaped if name.removesuffix("weight") + "bias" in foreign.others]
    if not shaped:
        raise StateDictError(
            f"no head of [{vocab} characters, {foreign.hidden} units]: besides recurrent layers found "
            f"{_shapes(foreign.others) or 'nothing'}; is it another vocabulary?"
        )
    return (with_bias or shaped)[-1]


def _with_one_bias(layer: dict[str, Tensor], cell: Cell) -> dict[str, Tensor]:
    """Return a layer's tensors, both biases added up but in a GRU, whose reset gate scales only one of them."""
    if cell == "gru":
        return layer
    weights = {name: layer[name] for name in ("weight_ih", "weight_hh")}
    return weights | {"bias_ih": layer["bias_ih"] + layer["bias_hh"]}


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())


def _list(modules: Iterable[str]) -> str:
    return "recurrent layers in several modules, " + ", ".join(
        sorted(name.rstrip(".") or "the top" for name in modules)
    )
