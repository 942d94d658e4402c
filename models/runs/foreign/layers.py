"""The recurrent layers in a state dict: one nn.LSTM, nn.GRU or nn.RNN, several numbered ones, or a stack of cells."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from bundle.shape import Cell
from models.runs.foreign.errors import StateDictError, list_some

__all__ = ["EXPECTED", "cell_of", "is_recurrent", "sort_layers"]

EXPECTED = (
    "expected are nn.Embedding or one-hot input, one nn.LSTM, nn.GRU or nn.RNN (or several, or cells, with a number "
    "each), and one nn.Linear"
)
# A layer's tensors are named so by torch; in a cell without the layer's number. Weight dropping (Merity et al., 2017)
# keeps the weights themselves in *_raw, and may leave what was dropped last beside them.
_OF_LAYER = re.compile(
    r"(?P<module>(?:.*\.)?)(?P<kind>weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)"
    r"(?:_l(?P<layer>\d+)(?P<reverse>_reverse)?)?(?P<raw>_raw)?"
)
_CELLS: dict[int, Cell] = {1: "rnn", 3: "gru", 4: "lstm"}
_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

Layer = dict[str, Tensor]


class _Place(NamedTuple):
    """Where a layer is: its module's name, and its number there; 0 of a cell."""

    module: str
    number: int


def is_recurrent(name: object) -> bool:
    """Return whether torch gives such a name to a tensor of a recurrent layer."""
    return isinstance(name, str) and _OF_LAYER.fullmatch(name) is not None


def sort_layers(tensors: Mapping[str, Tensor]) -> tuple[list[Layer], dict[str, Tensor]]:
    """Return the layers from the lowest on, each with its weight_ih, weight_hh, bias_ih and bias_hh; and the others.

    Raises:
        StateDictError: there are none, they have no order, or are of a kind that is not supported.
    """
    layers: dict[_Place, Layer] = {}
    raw: dict[_Place, Layer] = {}
    others = {}
    for name, tensor in tensors.items():
        found = _OF_LAYER.fullmatch(name)
        if not found:
            others[name] = tensor
            continue
        _require_plain(name, found)
        place = _Place(found["module"].replace("module.", ""), int(found["layer"] or 0))
        (raw if found["raw"] else layers).setdefault(place, {})[found["kind"]] = tensor
    for place, layer in raw.items():
        layers.setdefault(place, {}).update(layer)
    if not layers:
        raise StateDictError(
            f"no recurrent layer in {list_some(_shape(*item) for item in tensors.items())}: {EXPECTED}"
        )
    ordered = [layers[place] for place in _in_order(layers)]
    cell_of(ordered[0])
    return [_complete(number, layer, ordered[0]) for number, layer in enumerate(ordered)], others


def cell_of(layer: Layer) -> Cell:
    """Return the kind of a layer, by how many rows of weights each unit has. Raises StateDictError."""
    if "weight_hh" not in layer or layer["weight_hh"].ndim != 2:
        shape = list(layer["weight_hh"].shape) if "weight_hh" in layer else "nothing"
        raise StateDictError(f"weight_hh_l0: found {shape}, expected two axes")
    rows, hidden = layer["weight_hh"].shape
    for gates, cell in _CELLS.items():
        if rows == gates * hidden > 0:
            return cell
    raise StateDictError(f"weight_hh_l0: found {[rows, hidden]}, expected are 1, 3 or 4 times as many rows as columns")


def _require_plain(name: str, found: re.Match[str]) -> None:
    if found["reverse"]:
        raise StateDictError(f"{name}: a bidirectional layer reads what is still to come, so it cannot write a text")
    if found["kind"] == "weight_hr":
        raise StateDictError(f"{name}: an LSTM with proj_size is not supported, train it with proj_size=0")


def _in_order(places: Iterable[_Place]) -> list[_Place]:
    """Return the layers' places in the order of their numbers: of modules whose names differ by these alone."""
    places = sorted(places, key=lambda place: (_numbers(place.module), place.number))
    modules = sorted({place.module for place in places}, key=_numbers)
    stems = {re.sub(r"\d+", "#", module) for module in modules}
    if len(modules) > 1 and (len(stems) > 1 or len({tuple(_numbers(module)) for module in modules}) < len(modules)):
        names = ", ".join(sorted(module.rstrip(".") or "the top" for module in modules))
        raise StateDictError(
            f"recurrent layers in several modules, {names}: which reads which is not known; name them with numbers, "
            "such as layers.0 and layers.1 (an encoder and a decoder of two texts cannot be imported)"
        )
    for module in modules:
        numbers = [place.number for place in places if place.module == module]
        missing = next((number for number in range(len(numbers)) if number not in numbers), None)
        if missing is not None:
            raise StateDictError(f"layer {missing} has no weight_ih_l{missing} and weight_hh_l{missing}: {EXPECTED}")
    return places


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _complete(number: int, layer: Layer, first: Layer) -> Layer:
    """Check a layer's tensors, and return all four of them, with biases of zeros where it has none."""
    for kind in ("weight_ih", "weight_hh"):
        if kind not in layer:
            raise StateDictError(f"layer {number} has no {kind}_l{number}: {EXPECTED}")
        if layer[kind].ndim != 2:
            raise StateDictError(f"{kind}_l{number}: found {list(layer[kind].shape)}, expected two axes")
    rows, hidden = first["weight_hh"].shape
    inputs = layer["weight_ih"].shape[1] if number == 0 else hidden
    wanted = {"weight_ih": (rows, inputs), "weight_hh": (rows, hidden), "bias_ih": (rows,), "bias_hh": (rows,)}
    layer = {kind: layer.get(kind, torch.zeros(rows)) for kind in _KINDS}
    for kind, shape in wanted.items():
        if layer[kind].shape != shape:
            raise StateDictError(
                f"{kind}_l{number}: found {list(layer[kind].shape)}, expected {list(shape)}: each layer reads the one "
                "before it, and all have the same size"
            )
    return layer


def _shape(name: str, tensor: Tensor) -> str:
    return f"{name} {list(tensor.shape)}"
