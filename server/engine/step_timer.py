"""Measures how long a step takes."""

from collections.abc import Callable

__all__ = ["StepTimer"]

WEIGHT = 0.1  # of a new measurement in the running mean


class StepTimer:
    """Seconds of one step by graph and by the number of rows, in classes that double: 1, 2, 3-4, 5-8, ...

    A device needs the same time for every run, but for us a run is over when this thread has the interpreter again:
    there the shortest time counts. By a mean, runs would get shorter because the host is busy, which keeps it busier.

    Args:
        width: gives the rows that a run of some rows really has.
        shortest: keep the shortest time instead of a running mean.
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
        """Return the seconds of the class of `rows`, or of the nearest one that was measured; 1 ms if none was."""
        measured = self._seconds[full]
        if not measured:
            return 1e-3
        size = self._class(rows)
        return measured[min(measured, key=lambda other: abs(other - size))]

    def _class(self, rows: int) -> int:
        return (self._width(rows) - 1).bit_length()
