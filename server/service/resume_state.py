"""Where a token's text stands, checked against the model: a token of an older version may say what no engine can do."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import ModelShape
from bundle.vocabulary import ALL_BYTES
from server.catalog.loaded_model import ServedModel
from server.engine.messages import RowState
from server.engine.whole import MOST_UNFINISHED
from server.errors import InvalidField
from server.service.resume_tokens import row_state
from server.service.token_pb2 import TextState

__all__ = ["forced_of", "origin_of"]

FLOAT_BYTES = 4
# Far beyond any text; what is counted on from here stays in 64 bits.
MAX_POSITION = 2**62
# What hidden states that are bounded by construction may come to by rounding.
MAX_HIDDEN = 1.001


def origin_of(token: TextState, model: ServedModel) -> RowState:
    """The state that a token holds. Raises InvalidField."""
    shape = model.manifest.model
    size = FLOAT_BYTES * len(shape.state_names) * shape.hidden
    if len(token.state) != size:
        raise _unusable(f"a state of {len(token.state)} bytes, of this model it has {size}")
    _check_characters([token.character], model)
    _check_unfinished(token.unfinished)
    if token.position > MAX_POSITION:
        raise _unusable(f"the position {token.position}, at most {MAX_POSITION} is allowed")
    origin = row_state(token, shape)
    _check_values(origin, shape)
    return origin


def forced_of(token: TextState, model: ServedModel) -> NDArray[np.int64]:
    """The numbers of the characters that lead from there to the token's place. Raises InvalidField."""
    _check_characters(token.forced, model)
    return np.array(token.forced, np.int64)


def _check_unfinished(found: str) -> None:
    """Bytes, as code points, of a character that was not complete."""
    if len(found) > MOST_UNFINISHED or max(found, default="") > ALL_BYTES[-1]:
        raise _unusable(f"the beginning {found!r} of a character, which no character has")


def _check_characters(numbers: Sequence[int], model: ServedModel) -> None:
    vocab = len(model.manifest.symbols)
    if max(numbers, default=0) >= vocab:
        raise _unusable(f"a character with the number {max(numbers)}, the model has {vocab}")


def _check_values(origin: RowState, shape: ModelShape) -> None:
    """One that is not finite, or far off, could end in characters that there are not."""
    for name, array in zip(shape.state_names, origin.state, strict=True):
        bounded = name.startswith("h") and shape.bounded_state
        most = MAX_HIDDEN if bounded else np.finfo(np.float32).max
        if not (np.abs(array) <= most).all():
            raise _unusable(f"a state {name} that no text leads to")


def _unusable(reason: str) -> InvalidField:
    return InvalidField("resume_token", f"holds {reason}")
