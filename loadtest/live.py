"""The line that shows in a terminal how a run goes."""

import shutil
import sys
from typing import TextIO

from loadtest.measures.measures import Measures

__all__ = ["LiveLine", "count_users", "live_text"]


def count_users(users: int) -> str:
    """Return a number of users in words that agree: 1 user, 2,000 users."""
    return f"{users:,} user{'s' * (users != 1)}"


def live_text(measures: Measures, users: int, seconds_left: float | None) -> str:
    """Return one line: users, characters a second in the last whole interval, first character, errors, time left."""
    chars = measures.timeline.last_rate("chars")
    first = measures.distributions["first"]
    parts = [count_users(users), f"{chars:,.0f} chars/s"]
    if first.count:
        parts.append(f"first {first.percentile(50):.1f} ms, p99 {first.percentile(99):.1f} ms")
    if (goodput := measures.goodput) is not None:
        parts.append(f"goodput {goodput:.1%}")
    parts.append(f"{measures.counts['failed']:,} errors")
    if seconds_left is not None:
        parts.append(f"{max(0.0, seconds_left):.0f} s left")
    return " | ".join(parts)


class LiveLine:
    """A line that is written over again and again; nothing where stderr is no terminal."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stderr
        self.is_shown = self._file.isatty()

    def show(self, text: str) -> None:
        if self.is_shown:
            width = shutil.get_terminal_size().columns - 1
            self._file.write(f"\r{text[:width]:{width}}")
            self._file.flush()

    def clear(self) -> None:
        if self.is_shown:
            self.show("")
            self._file.write("\r")
            self._file.flush()
