"""The two ends of a model in a state dict, its embedding and its head, told apart by structure and by name."""

import re
from collections.abc import Mapping
from posixpath import commonpath
from typing import NamedTuple

import torch
from torch import Tensor

from models.runs.foreign.errors import StateDictError, list_some

__all__ = ["Ends", "Sizes", "find_ends"]

_EMBEDDING = re.compile(r"emb|encod|wte|lookup|tok|input|in_?layer|i2h|^enc$")
_HEAD = re.compile(r"head|out|decod|^fc|linear|dense|proj|logit|classif|generator|h2o|^dec$|^lin$|softmax")

_SPECIAL_ROWS = 8  # that a vocabulary may have beside its characters


class Sizes(NamedTuple):
    """V characters, H hidden units, and the inputs of the first layer, E (V of one-hot input).

    `padding` is the row of a symbol that only fills up, where the vocabulary says so; it is not one of the V.
    """

    vocab: int
    hidden: int
    inputs: int
    padding: int | None = None


class Ends(NamedTuple):
    """The embedding [V, E], None where the input is one-hot; the head's weight [V, H] and bias [V]; and remarks."""

    embedding: Tensor | None
    weight: Tensor
    bias: Tensor
    remarks: list[str]


def find_ends(others: Mapping[str, Tensor], sizes: Sizes, wanted_head: str | None) -> Ends:
    """Find embedding and head among the tensors that are no recurrent layer's.

    Args:
        wanted_head: name of the head's weight, where names and structure do not tell.

    Raises:
        StateDictError: they are not there, cannot be told apart, or something else is there too.
    """
    matrices = {name: tensor for name, tensor in others.items() if tensor.ndim == 2 and _is_weight(name)}
    matrices, rows, padding = _without_padding(matrices, sizes)
    head = _head(matrices, others, sizes, wanted_head)
    bias_name = _bias_name(head)
    if bias_name not in others and len(matrices) == 1:  # of a head that has its weights from the embedding
        bias_name = next(
            (name for name in others if name.endswith("bias") and others[name].shape == (rows,)), bias_name
        )
    bias = others.get(bias_name, torch.zeros(rows))
    if bias.shape == (rows,) and padding is not None:
        bias = _drop(bias, padding)
    if bias.shape != (sizes.vocab,):
        raise StateDictError(f"{bias_name}: found {list(bias.shape)}, expected {[sizes.vocab]}, one for each character")
    rest = {name: tensor for name, tensor in others.items() if name not in (head, bias_name)}
    remarks = [] if padding is None else [f"row {padding} is padding, and was left out"]
    if not rest and sizes.inputs == sizes.vocab != sizes.hidden:
        return Ends(None, matrices[head], bias, remarks)
    if not rest and sizes.inputs == sizes.hidden != sizes.vocab:
        return Ends(matrices[head], matrices[head], bias, [*remarks, f"{head} is embedding and head in one"])
    if not rest and sizes.inputs == sizes.hidden == sizes.vocab:
        return _square(head, matrices[head], bias, remarks)
    names = [name for name in matrices if name != head and matrices[name].shape == (sizes.vocab, sizes.inputs)]
    copies = [name for name in names[1:] if torch.equal(matrices[name], matrices[names[0]])]
    names = [name for name in names if name not in copies]
    _refuse_others({name: tensor for name, tensor in rest.items() if name not in copies}, names, sizes)
    return Ends(matrices[names[0]], matrices[head], bias, remarks)


def _square(head: str, weight: Tensor, bias: Tensor, remarks: list[str]) -> Ends:
    """Return the ends of a model of V = H = E that has one matrix: one-hot input, or an embedding that is tied."""
    if _looks_like(head, _EMBEDDING) == _looks_like(head, _HEAD):
        raise StateDictError(
            f"{head}: the head alone, or embedding and head in one, which its shape does not tell: "
            "save both, or name it head.weight or embedding.weight"
        )
    tied = _looks_like(head, _EMBEDDING)
    return Ends(weight if tied else None, weight, bias, remarks)


def _without_padding(matrices: dict[str, Tensor], sizes: Sizes) -> tuple[dict[str, Tensor], int, int | None]:
    """Return the matrices without the row of a padding symbol, how many rows they had, and that row, if there is one.

    It is the one row more than there are characters: the vocabulary's, or the first or last, all zeros in an embedding.
    """
    longer = {name: tensor for name, tensor in matrices.items() if len(tensor) == sizes.vocab + 1}
    empty = [row for row in (0, sizes.vocab) for tensor in longer.values() if not tensor[row].any()]
    rows = [sizes.padding] if sizes.padding is not None and longer else empty
    if not rows:
        return matrices, sizes.vocab, None
    shorter = {name: _drop(tensor, rows[0]) if name in longer else tensor for name, tensor in matrices.items()}
    return shorter, sizes.vocab + 1, rows[0]


def _drop(tensor: Tensor, row: int) -> Tensor:
    return torch.cat([tensor[:row], tensor[row + 1 :]])


def _head(matrices: Mapping[str, Tensor], others: Mapping[str, Tensor], sizes: Sizes, wanted: str | None) -> str:
    """Return the name of the head's weight."""
    fit = [name for name, tensor in matrices.items() if tensor.shape == (sizes.vocab, sizes.hidden)]
    if wanted is not None:
        if wanted not in fit:
            raise StateDictError(
                f"--head {wanted}: {'has the wrong shape' if wanted in others else 'is not there'}; of "
                f"[{sizes.vocab} characters, {sizes.hidden} units] {'are' if fit else 'is'} {', '.join(fit) or 'none'}"
            )
        return wanted
    if not fit:
        raise StateDictError(
            f"no head of [{sizes.vocab} characters, {sizes.hidden} units]: besides recurrent layers found "
            f"{_shapes(others) or 'nothing'}; is it another vocabulary?{_hint(matrices, sizes)}"
        )
    if all(torch.equal(matrices[fit[0]], matrices[name]) for name in fit):
        return next((name for name in fit if _bias_name(name) in others), fit[-1])
    # An embedding has no bias, so what has one is the head; else the names must tell.
    shared = commonpath([f"/{name.replace('.', '/')}" for name in fit])
    own = {name: name[len(shared.rstrip("/")) :] for name in fit}
    for likely in (
        [name for name in fit if _bias_name(name) in others],
        [name for name in fit if _looks_like(own[name], _HEAD) and not _looks_like(own[name], _EMBEDDING)],
        [name for name in fit if not _looks_like(own[name], _EMBEDDING)],
    ):
        if len(likely) == 1:
            return likely[0]
    raise StateDictError(
        f"{' and '.join(fit)} have one shape, and neither names nor a bias tell which is the head: "
        f"--head {fit[0]} or --head {fit[1]} decides"
    )


def _hint(matrices: Mapping[str, Tensor], sizes: Sizes) -> str:
    """Return what to do about a few rows more than characters, which are mostly of symbols that are none."""
    more = {len(tensor) - sizes.vocab for tensor in matrices.values() if tensor.shape[1:] == (sizes.hidden,)}
    if not more or not 0 < min(more) <= _SPECIAL_ROWS:
        return ""
    return (
        f" {min(more)} more than characters: a vocabulary as JSON may name symbols that are none, "
        'such as ["<pad>", "<bos>", "<eos>", "<unk>", "a", ...]'
    )


def _refuse_others(rest: Mapping[str, Tensor], embeddings: list[str], sizes: Sizes) -> None:
    """Refuse what is neither recurrent layer nor head nor the one embedding, by name."""
    strange = {name: tensor for name, tensor in rest.items() if name not in embeddings[:1]}
    if len(embeddings) == 1 and not strange:
        return
    kinds = "; ".join(_kind(name, tensor, rest) for name, tensor in strange.items())
    raise StateDictError(
        f"besides recurrent layers and head found {kinds or _shapes(rest) or 'nothing'}, "
        f"expected one embedding of [{sizes.vocab} characters, {sizes.inputs} inputs of the first layer] and no more"
    )


def _kind(name: str, tensor: Tensor, rest: Mapping[str, Tensor]) -> str:
    """Return a tensor's name and shape, and what it seems to be."""
    module = name.rpartition(".")[0]
    weight = rest.get(f"{module}.weight" if module else "weight", tensor)
    if f"{module}.running_mean" in rest:
        what = "of a batch normalisation"
    elif tensor.ndim == 1 and weight.ndim == 1 and name.endswith(("weight", "bias")):
        what = "of a LayerNorm"
    elif name.endswith(("weight", "bias")) and weight.ndim == 2:
        what = "of another linear layer or projection"
    elif re.search(r"h_?0|c_?0|init|start", name):
        what = "a learned first state"
    else:
        what = ""
    return f"{name} {list(tensor.shape)}{', ' if what else ''}{what}"


def _is_weight(name: str) -> bool:
    """Return whether a matrix may be an end's: a bias is none, whatever its shape."""
    return not name.endswith("bias")


def _bias_name(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"


def _looks_like(name: str, words: re.Pattern[str]) -> bool:
    return any(words.search(part) for part in name.lower().removesuffix("weight").split(".") if part)


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    return list_some(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
