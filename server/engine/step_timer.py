"""What a step takes, measured as it runs."""

from collections.abc import Callable

__all__ = ["StepClock"]

WEIGHT = 0.1  # of a new measurement in the running mean


class StepClock:
    """Seconds of one step by graph and by the number of rows, in classes that double: 1, 2, 3-4, 5-8, ...

    A device needs the same for every run, but one is over for us when this thread has the interpreter again: there the
    shortest counts. By a mean, runs would get shorter because the host is busy, which keeps it busier.

    Args:
        width: how many rows a run of so many really has.
        shortest: and no mean of the last ones.
    """

    def __init__(self, width: Callable[[int], int], *, shortest: bool = False) -> None:
        self._width, self._shortest = width, shortest
        self._seconds: dict[bool, dict[int, float]] = {False: {}, True: {}}

    def measure(self, rows: int, full: bool, steps: int, seconds: float) -> None:
        """A run of `steps` steps took `seconds`."""
        size, step = self._class(rows), seconds / steps
        known = self._seconds[full].setdefault(size, step)
        self._seconds[full][size] = min(known, step) if self._shortest else known + WEIGHT * (step - known)

    def step_seconds(self, rows: int, full: bool) -> float:
        """Of the class of `rows`, or of the nearest one that was measured; 1 ms if none was."""
        measured = self._seconds[full]
        if not measured:
            return 1e-3
        size = self._class(rows)
        return measured[min(measured, key=lambda other: abs(other - size))]

    def _class(self, rows: int) -> int:
        return (self._width(rows) - 1).bit_length()
