"""The surprise of each character of a text, as its background in a terminal of 256 colours."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["legend", "paint"]


@dataclass(frozen=True)
class Level:
    """A level of surprise, below a number of bits. Both colours are set, so that it is legible on any background."""

    below: float
    background: int
    foreground: int = 16  # black

    def paint(self, text: str) -> str:
        return f"\x1b[38;5;{self.foreground};48;5;{self.background}m{text}\x1b[0m" if self.background else text


# From calm to hot. Most characters of a good model's text have the first level, in the terminal's own colours.
LEVELS = (
    Level(1, 0),
    Level(2, 230),
    Level(3, 222),
    Level(4, 215),
    Level(6, 208),
    Level(8, 202),
    Level(math.inf, 160, foreground=231),  # white
)


def paint(text: str, logprobs: Sequence[float]) -> str:
    """Return the text with an escape code around equally surprising neighbours; `logprobs` are natural logarithms."""
    bits = (-logprob / math.log(2) for logprob in logprobs)
    levels = (next((level for level in LEVELS if value < level.below), LEVELS[-1]) for value in bits)
    groups = itertools.groupby(zip(text, levels, strict=True), key=lambda pair: pair[1])
    return "".join(_paint_group("".join(char for char, _ in group), level) for level, group in groups)


def legend() -> str:
    limits = [f"{level.below:g}" for level in LEVELS[:-1]]
    names = [f"<{limits[0]}", *(f"{a}-{b}" for a, b in itertools.pairwise(limits)), f">{limits[-1]}"]
    return "bits: " + " ".join(level.paint(f" {name} ") for level, name in zip(LEVELS, names, strict=True))


def _paint_group(text: str, level: Level) -> str:
    """Paint each line by itself: a colour across a line's end would fill the rest of the line."""
    if not level.background:
        return _visible(text)
    *lines, last = text.split("\n")
    return "".join(level.paint(_visible(line) + "↵") + "\n" for line in lines) + (
        level.paint(_visible(last)) if last else ""
    )


def _visible(text: str) -> str:
    """Show control characters as their pictures: a text must not steer the terminal."""
    return text.translate(PICTURES)


PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
