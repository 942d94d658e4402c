"""Text for people at a terminal: lines and progress on stderr, tables for stdout."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

__all__ = ["ProgressBar", "count_noun", "say", "table"]

LINE_SECONDS = 10.0


def say(text: str, file: TextIO | None = None) -> None:
    """Write lines for people, by default to stderr, above a progress bar if there is one."""
    tqdm.write(text, file=file or sys.stderr)


def count_noun(number: float, name: str) -> str:
    """Return a number of things in words that agree: 1 minute, 1.5 minutes, 2,000 steps."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:,.10g}"
    return f"{shown} {name}{'' if number == 1 else 's'}"


class ProgressBar:
    """A bar on a terminal, a plain line now and then elsewhere; a context manager.

    Args:
        total: how many `unit`s there are to do; `set_total` sets it later.
        shown: False hides it: of several processes that do the same work, one shows the progress.
    """

    def __init__(self, name: str, unit: str, total: int | None = None, done: int = 0, *, shown: bool = True) -> None:
        self.name, self._next_line = name, time.monotonic() + LINE_SECONDS
        self._shown, self._plain = shown, not (shown and sys.stderr.isatty())
        # Without a terminal tqdm only keeps the count and the rate.
        self._bar = tqdm(
            desc=name,
            unit=unit,
            total=total,
            initial=done,
            unit_scale=unit in (" chars", "B"),  # the others are counted by the ten
            file=_Nowhere() if self._plain else sys.stderr,
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def set_total(self, total: int) -> None:
        self._bar.total = total
        self._bar.refresh()

    def advance(self, count: int, facts: str = "") -> None:
        """Count `count` more units as done, and show `facts` behind the rate."""
        self._bar.set_postfix_str(facts, refresh=False)
        self._bar.update(count)
        if self._shown and self._plain and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            say(str(self._bar))


class _Nowhere:
    """A file that drops what is written to it."""

    def write(self, text: str) -> None: ...

    def flush(self) -> None: ...


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a plain table: columns two blanks apart, the first one aligned left, the others right."""
    lines = [list(head), *map(list, rows)]
    first, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([name.ljust(first), *map(str.rjust, cells, others)]).rstrip() for name, *cells in lines)
