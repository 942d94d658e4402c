"""A surface that outsiders' bytes reach first: a function from bytes to an outcome's name; an exception is a fault."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

__all__ = ["Fault", "Surface"]


class Fault(AssertionError):
    """An input has an effect that no input may have."""


@dataclass(frozen=True)
class Surface:
    """Bytes that somebody else makes.

    Attributes:
        take: handles them until they are trusted; returns the outcome, raises at a fault.
        change: makes a seed strange, but not so strange that it is refused at the first look.
        method, request: how they go over a connection; without a method they do not.
    """

    name: str
    seeds: Sequence[bytes]
    take: Callable[[bytes], str]
    change: Callable[[bytes, Random], bytes]
    method: str = ""
    request: Callable[[bytes], bytes] = bytes

    def input(self, number: int) -> bytes:
        """Return an input for this surface, the same for the same number."""
        rng = Random(number)
        if number % 20 == 0:
            return rng.randbytes(rng.choice((0, 1, 4, 100, 2000)))
        return self.change(rng.choice(self.seeds), rng)
