"""What outsiders' bytes reach first, each a function: bytes in, the outcome's name out; what is raised is a fault."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

__all__ = ["Fault", "Surface"]


class Fault(AssertionError):
    """An input led to what no input may lead to."""


@dataclass(frozen=True)
class Surface:
    """Bytes that somebody else makes.

    Attributes:
        take: what is done with them, down to where they are trusted; returns the outcome, raises at a fault.
        changed: a seed made strange, but not so strange that nothing looks further into it.
        method, request: how they go over a connection; without a method they do not.
    """

    name: str
    seeds: Sequence[bytes]
    take: Callable[[bytes], str]
    changed: Callable[[bytes, Random], bytes]
    method: str = ""
    request: Callable[[bytes], bytes] = bytes

    def input(self, number: int) -> bytes:
        """One of the inputs that this surface can be given, the same for the same number."""
        rng = Random(number)
        if number % 20 == 0:
            return rng.randbytes(rng.choice((0, 1, 4, 100, 2000)))
        return self.changed(rng.choice(self.seeds), rng)
