"""The place that a resume token holds, checked against the model: an older version's may be one no engine can reach."""

from collections.abc import Sequence

import numpy as np

from bundle.manifest import Manifest, ModelShape
from bundle.vocabulary import ALL_BYTES, MAX_PARTIAL_SYMBOLS
from server.engine.messages import RowState
from server.errors import InvalidField
from server.service.fields import Tokens
from server.service.token_pb2 import TextState

__all__ = ["place_of"]

FLOAT_BYTES = 4
# Far beyond any text; what is counted on from here stays in 64 bits.
MAX_POSITION = 2**62
# Rounding may take hidden states beyond 1, by which they are bounded by construction.
MAX_HIDDEN = 1.001


def place_of(token: TextState | None, manifest: Manifest) -> tuple[RowState | None, Tokens]:
    """Return the row state of a resume token, and the tokens that lead from it to the place. Raises InvalidField."""
    if not token:
        return None, np.empty(0, np.int64)
    shape = manifest.model
    size = FLOAT_BYTES * len(shape.state_names) * shape.hidden
    if len(token.state) != size:
        raise _unusable(f"a state of {len(token.state)} bytes, of this model it has {size}")
    _check_characters([token.character], manifest)
    if len(token.unfinished) > MAX_PARTIAL_SYMBOLS or max(token.unfinished, default="") > ALL_BYTES[-1]:
        raise _unusable(f"the beginning {token.unfinished!r} of a character, which no character has")
    if token.position > MAX_POSITION:
        raise _unusable(f"the position {token.position}, at most {MAX_POSITION} is allowed")
    arrays = np.frombuffer(token.state, "<f4").reshape(len(shape.state_names), shape.hidden)
    origin = RowState(token.character, tuple(arrays.astype(np.float32)), token.position)
    _check_values(origin, shape)
    _check_characters(token.forced, manifest)
    return origin, np.array(token.forced, np.int64)


def _check_characters(numbers: Sequence[int], manifest: Manifest) -> None:
    vocab = len(manifest.symbols)
    if max(numbers, default=0) >= vocab:
        raise _unusable(f"a character with the number {max(numbers)}, the model has {vocab}")


def _check_values(origin: RowState, shape: ModelShape) -> None:
    """Checks that values are finite and not far off: others could lead to tokens that there are not."""
    for name, array in zip(shape.state_names, origin.state, strict=True):
        bounded = name.startswith("h") and shape.bounded_state
        most = MAX_HIDDEN if bounded else np.finfo(np.float32).max
        if not (np.abs(array) <= most).all():
            raise _unusable(f"a state {name} that no text leads to")


def _unusable(reason: str) -> InvalidField:
    return InvalidField("resume_token", f"holds {reason}")
