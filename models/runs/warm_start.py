"""A warm start: the weights of another run, or of a bundle, as the first weights of a new run."""

from pathlib import Path

import torch
from torch import Tensor

from bundle.vocabulary import Vocabulary
from models.network.char_lm import CharLM
from models.network.config import ModelConfig
from models.runs.bundle_model import load_model
from models.training.checkpoint import CheckpointError
from models.training.settings import TrainSettings

__all__ = ["adopt_model", "take_weights"]

# The options that make the tensors of a model, or say how they are used.
_SIZES = ("layers", "hidden", "embedding")
_OF_THE_MODEL = ("cell", "activation", "form", "input", *_SIZES, "norm", "recurrent_norm", "residual")


def adopt_model(settings: TrainSettings) -> TrainSettings:
    """Return the settings with the model options of --init-from where none were given; a preset's count as given.

    Raises:
        CheckpointError: there is no model to begin from.
    """
    if not settings.init_from or settings.resume:
        return settings
    config = load_model(settings.init_from).model.config
    left_out = [name for name in _OF_THE_MODEL if name not in settings.model_fields_set]
    return settings.model_copy(update={name: getattr(config, name) for name in left_out})


@torch.no_grad()
def take_weights(model: CharLM, vocabulary: Vocabulary, source: Path) -> None:
    """Copy the weights of the run or bundle at `source`; rows of characters that it did not know stay as they are.

    Raises:
        CheckpointError: no checkpoint is there, or one of another kind of model.
    """
    trained = load_model(source)
    if trained.vocabulary.unit != vocabulary.unit:
        raise CheckpointError(
            f"--init-from {source}: its vocabulary is of {trained.vocabulary.unit}, this one of {vocabulary.unit}"
        )
    own, given = model.state_dict(), trained.model.state_dict()
    by_character = _by_character(model)
    _require_equal_kinds(source, model.config, trained.model.config)
    _require_equal_shapes(source, own, given, by_character)
    here, there = _common(vocabulary, trained.vocabulary)
    for name, tensor in given.items():
        if name in by_character:
            axis = by_character[name]
            own[name].index_copy_(axis, here, tensor.index_select(axis, there).to(own[name].dtype))
        else:
            own[name].copy_(tensor)


def _by_character(model: CharLM) -> dict[str, int]:
    """Return the tensors that have a row or a column for each character, and the axis of it."""
    reads = {"layers.0.weight_ih": 1} if model.config.input == "onehot" else {"embedding.weight": 0}
    return {**reads, "head.weight": 0, "head.bias": 0}


def _require_equal_shapes(
    source: Path, own: dict[str, Tensor], given: dict[str, Tensor], by_character: dict[str, int]
) -> None:
    """Raise CheckpointError unless the shapes are equal, apart from the number of characters."""
    found, wanted = _shapes(given, by_character), _shapes(own, by_character)
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise CheckpointError(
                f"--init-from {source}: its {name} is {found.get(name, 'not there')}, here it is "
                f"{wanted.get(name, 'not there')}; give the model options that it was trained with"
            )


def _require_equal_kinds(source: Path, own: ModelConfig, given: ModelConfig) -> None:
    """Raise CheckpointError unless options are equal that no shape shows, or one of a tensor that no user knows."""
    for name in ("activation", "form", "recurrent_norm", "residual"):
        found, wanted = getattr(given, name), getattr(own, name)
        if found != wanted:
            raise CheckpointError(
                f"--init-from {source}: its {name.replace('_', '-')} is {found}, here it is {wanted}; give the model "
                "options that it was trained with"
            )


def _shapes(tensors: dict[str, Tensor], by_character: dict[str, int]) -> dict[str, str]:
    """Return the shapes as text, such as [V, 512], where V is any number of characters."""
    return {name: _shape(tensor, by_character.get(name)) for name, tensor in tensors.items()}


def _shape(tensor: Tensor, by_character: int | None) -> str:
    sizes = ("V" if axis == by_character else str(size) for axis, size in enumerate(tensor.shape))
    return f"[{', '.join(sizes)}]"


def _common(here: Vocabulary, there: Vocabulary) -> tuple[Tensor, Tensor]:
    """Return the numbers of the common characters, in one vocabulary and in the other."""
    both = "".join(symbol for symbol in here.symbols if symbol in set(there.symbols))
    return torch.from_numpy(here.symbols_to_tokens(both)), torch.from_numpy(there.symbols_to_tokens(both))
