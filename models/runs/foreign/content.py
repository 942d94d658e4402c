"""The state dict in what a trainer saved, by its place there."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.runs.foreign.errors import StateDictError
from models.runs.foreign.layers import is_recurrent

__all__ = ["find_state_dict"]

_DEPTH = 3  # of dictionaries within each other


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


def _state_dicts(content: Any, place: str, seen: set[int], depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the dictionaries of tensors with their places, such as `model` or `checkpoint.model`.

    Args:
        seen: ids of the dictionaries that were looked into: one may hold itself.
    """
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    if content and all(map(torch.is_tensor, content.values())):
        yield place, dict(content)
        return
    if id(content) in seen:
        return
    seen.add(id(content))
    for name, value in content.items():
        yield from _state_dicts(value, f"{place}.{name}" if place else str(name), seen, depth + 1)


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
