"""The error of all that reads models from elsewhere, and a list that keeps its message short."""

from collections.abc import Iterable

__all__ = ["StateDictError", "list_some"]

_MOST = 12


class StateDictError(ValueError):
    """A file holds no model that can be imported; the message is one line: found, expected, what to do."""


def list_some(names: Iterable[str]) -> str:
    """Return names with commas; of very many the first ones, and how many more there are."""
    names = list(names)
    more = [f"and {len(names) - _MOST} more"] if len(names) > _MOST else []
    return ", ".join(names[:_MOST] + more)
