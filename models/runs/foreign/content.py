"""The state dict in what a trainer saved, by its place there."""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.runs.foreign.errors import StateDictError
from models.runs.foreign.layers import is_recurrent

__all__ = ["find_state_dict", "says_relu"]

_DEPTH = 3  # of dictionaries within each other
_MODULES = 16  # within each other
_LOOKED_INTO = 500  # dictionaries that are asked for the kind of an RNN
_KINDS_OF_RNN = ("rnn_type", "model", "model_type", "cell", "cell_type")  # as trainers call it in what they save
_ELEMENTS = 16  # of a list that is looked into


def find_state_dict(file: Path, content: Any, wanted: str | None) -> dict[str, Tensor]:
    """Return the content if it is a state dict, or the one in it that has recurrent layers.

    Args:
        wanted: the place of the one to take, where the file has several, such as weights and their average.

    Raises:
        StateDictError: there is none, there are several and none is wanted, or the wanted one is not there.
    """
    found = {
        place: tensors
        for name, tensors in _state_dicts(content, "", set())
        for place, tensors in _copies(name, tensors)
    }
    recurrent = {place: tensors for place, tensors in found.items() if any(map(is_recurrent, tensors))}
    candidates = recurrent or found
    if wanted is not None:
        if wanted not in candidates:
            raise StateDictError(f"--weights {wanted}: {file} has {', '.join(filter(None, candidates)) or 'one alone'}")
        return candidates[wanted]
    if len(candidates) > 1:
        raise StateDictError(f"{file}: holds several models, {', '.join(candidates)}: --weights takes one of them")
    if not candidates:
        raise StateDictError(f"{file}: expected one state dict, names and tensors, found none")
    (tensors,) = candidates.values()
    return tensors


def says_relu(content: Any, seen: set[int] | None = None) -> bool:
    """Return whether a checkpoint or a whole model says that its nn.RNN is of relu, which no tensor shows."""
    seen = set() if seen is None else seen
    if isinstance(content, Namespace):
        content = vars(content)
    if not isinstance(content, Mapping) or id(content) in seen or len(seen) > _LOOKED_INTO:
        return False
    seen.add(id(content))
    if content.get("mode") == "RNN_RELU" or "RNN_RELU" in [content.get(name) for name in _KINDS_OF_RNN]:
        return True
    return any(says_relu(value, seen) for value in content.values() if isinstance(value, (Mapping, Namespace)))


def _state_dicts(content: Any, place: str, seen: set[int], depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the dictionaries of tensors with their places, such as `model` or `checkpoint.model`.

    A whole model is the dictionary of its parameters. Arrays of NumPy are tensors, too.

    Args:
        seen: ids of the dictionaries that were looked into: one may hold itself.
    """
    if isinstance(content, Namespace):
        content = dict(_parameters(content)) or vars(content)
    elif isinstance(content, (list, tuple)) and len(content) <= _ELEMENTS:
        content = dict(enumerate(content))
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    tensors = {name: tensor for name, value in content.items() if (tensor := _as_tensor(value)) is not None}
    if tensors and (len(tensors) == len(content) or any(map(is_recurrent, tensors))):
        yield place, tensors
        return
    if id(content) in seen:
        return
    seen.add(id(content))
    for name, value in content.items():
        yield from _state_dicts(value, f"{place}.{name}" if place else str(name), seen, depth + 1)


def _parameters(module: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield what state_dict() has of a module of torch's, of which only the attributes are there."""
    if not isinstance(module, Namespace) or depth > _MODULES:
        return
    own = vars(module)
    for kind in ("_parameters", "_buffers"):
        if isinstance(own.get(kind), Mapping):
            yield from ((f"{place}{name}", tensor) for name, tensor in own[kind].items() if torch.is_tensor(tensor))
    if isinstance(own.get("_modules"), Mapping):
        for name, inner in own["_modules"].items():
            yield from _parameters(inner, f"{place}{name}.", depth + 1)


def _as_tensor(value: Any) -> Tensor | None:
    """Return a tensor, or an array of NumPy as one; None of anything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    return value if isinstance(value, Tensor) else None


def _copies(place: str, tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the state dict, or each model in it, where weights and their average lie side by side in one.

    torch's AveragedModel counts its weights in `n_averaged`, which is no weight.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        first, _, rest = str(name).partition(".")
        parts.setdefault(first, {})[rest] = tensor
    models = {first: part for first, part in parts.items() if any(map(is_recurrent, part))}
    names = [frozenset(part) for part in models.values()]
    if len(models) > 1 and len(set(names)) == 1 and _has_more_than_layers(names[0]):
        for first, part in models.items():
            yield f"{place}.{first}" if place else first, part
    else:
        yield place, tensors


def _has_more_than_layers(names: frozenset[str]) -> bool:
    return not all(map(is_recurrent, names))
