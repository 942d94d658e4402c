"""Ctrl-C and SIGTERM as a flag that the training loop looks at between two steps."""

import signal
from types import FrameType, TracebackType
from typing import Self

__all__ = ["Interrupt"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Remembers the first signal, and is true from then on; a second signal acts as usual.

    A context manager, for the main thread only.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The exit code by which a shell says that the signal ended a process; 0 if there was none."""
        return 128 + self.signal if self.signal else 0

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
