"""How far a long piece of work is, on stderr: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

__all__ = ["ProgressBar", "say"]

LINE_SECONDS = 10.0


def say(text: str) -> None:
    """Writes lines for people, above a bar if there is one."""
    tqdm.write(text, file=sys.stderr)


class ProgressBar:
    """Counts `unit`s up to `total`, which may be set later; a context manager.

    Args:
        shown: whether anybody is to see it: of several processes that do the same, one shows how far they are.
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
            unit_scale=True,
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
        """`count` more are done; `facts` stands behind the rate."""
        self._bar.set_postfix_str(facts, refresh=False)
        self._bar.update(count)
        if self._shown and self._plain and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            say(str(self._bar))


class _Nowhere:
    def write(self, text: str) -> None: ...

    def flush(self) -> None: ...
