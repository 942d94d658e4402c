"""Whether the texts that come are the right ones: the same call is made again later, and texts that were recorded alone
are asked for under load."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtest.scenarios.calls import Call

__all__ = ["Checks", "Difference", "compare_texts"]

REMEMBERED = 1000  # calls that wait to be made again
SHOWN = 60  # characters on both sides of a difference


@dataclass(frozen=True)
class Difference:
    """Two texts of one call that are not the same."""

    call: Call
    expected: str
    received: str
    was_alone: bool

    def __str__(self) -> str:
        at = next((i for i, (a, b) in enumerate(zip(self.expected, self.received, strict=False)) if a != b), None)
        at = min(len(self.expected), len(self.received)) if at is None else at
        first = max(0, at - SHOWN)
        before = "recorded alone" if self.was_alone else "received before"
        return (
            f"a text differs from character {at} on: {before} {self.expected[first : at + SHOWN]!r}, now "
            f"{self.received[first : at + SHOWN]!r} (from character {first}); {self.call}"
        )


class Checks:
    """Chooses which calls are made again, and compares what they give.

    Args:
        share: of the new calls that are remembered, so that they are made again.
        alone: calls with their texts from before the load, which stay remembered.
    """

    def __init__(self, share: float, chance: random.Random, alone: list[tuple[Call, dict[int, str]]]) -> None:
        self._share, self._chance = share, chance
        self._again: list[Call] = []
        self._alone = [call for call, _ in alone]
        self._keys_alone = {call.text_key for call in self._alone}
        self._known: dict[tuple[Any, ...], tuple[dict[int, str], bool]] = {
            call.text_key: (texts, True) for call, texts in alone
        }
        self.counts = {"checked": 0, "alone": 0, "differing": 0}
        self.differences: list[Difference] = []

    def choose(self, fresh: Callable[[], Call]) -> Call:
        """Return a new call, or one that was made before: each remembered one comes once more, in random order."""
        if not self._share or self._chance.random() < 0.5:
            return fresh()
        if self._alone and (not self._again or self._chance.random() < 0.1):
            return self._vary(self._chance.choice(self._alone))
        if not self._again:
            return fresh()
        place = self._chance.randrange(len(self._again))
        self._again[place], self._again[-1] = self._again[-1], self._again[place]
        return self._vary(self._again.pop())

    def note(self, call: Call, texts: dict[int, str], *, is_whole: bool) -> Difference | None:
        """Compare with what is known of the call's texts, or remember them; texts that are not whole are beginnings."""
        key = call.text_key
        texts = {index or call.continuation: text for index, text in texts.items()}
        if key not in self._known:
            self._remember(call, texts, is_whole)
            return None
        known, was_whole = self._known[key] if key in self._keys_alone else self._known.pop(key)
        was_alone, both = key in self._keys_alone, known.keys() & texts.keys()
        self.counts["checked"] += bool(both)
        self.counts["alone"] += was_alone and bool(both)
        for index in both:
            if not compare_texts(known[index], texts[index], whole=(was_whole, is_whole)):
                found = Difference(call, known[index], texts[index], was_alone)
                self.counts["differing"] += 1
                self.differences.append(found)
                return found
        return None

    def _remember(self, call: Call, texts: dict[int, str], is_whole: bool) -> None:
        if texts and len(self._again) < REMEMBERED and self._chance.random() < self._share:
            self._known[call.text_key] = texts, is_whole
            self._again.append(call)

    def _vary(self, call: Call) -> Call:
        """Return the call as it was, or half of the time the plain one that has to give the same text."""
        return call if self._chance.random() < 0.5 else call.plain(self._chance.randrange(call.n))


def compare_texts(first: str, second: str, whole: tuple[bool, bool]) -> bool:
    """Return whether two texts are the same, or one that is not whole is the beginning of the other."""
    if all(whole):
        return first == second
    if whole[0] or (not whole[1] and len(first) > len(second)):
        return first.startswith(second)
    return second.startswith(first)
