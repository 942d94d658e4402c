"""Objectives: what a stream must keep to count as good (goodput)."""

import re
from dataclasses import dataclass

from loadtest.measures.record import MEASURES, StreamRecord

__all__ = ["Objectives"]

NAMES = [name for name, measure in MEASURES.items() if name not in ("gap", "lag") and measure.is_better_low]


@dataclass(frozen=True)
class Objectives:
    """The most milliseconds that measures of a stream may have, by name.

    A stream is good if it finished and kept all of them; what it has not (a text of one message has no gap) it keeps.
    """

    limits: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Objectives":
        """Read "first:100 gap-p99:50". Raises ValueError."""
        limits = []
        for word in text.split():
            found = re.fullmatch(r"([\w-]+):(\d+(?:\.\d+)?)", word)
            if not found or found[1] not in NAMES:
                raise ValueError(
                    f"{word!r} is no objective: NAME:MILLISECONDS is expected, NAME one of {', '.join(NAMES)}"
                )
            limits.append((found[1], float(found[2])))
        return cls(tuple(limits))

    def __str__(self) -> str:
        return " ".join(f"{name}:{limit:g}" for name, limit in self.limits)

    def __bool__(self) -> bool:
        return bool(self.limits)

    def are_met(self, record: StreamRecord) -> bool:
        if record.end != "finished":
            return False
        values = ((MEASURES[name].of(record), limit) for name, limit in self.limits)
        return all(value is None or value <= limit for value, limit in values)
