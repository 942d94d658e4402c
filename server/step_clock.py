"""What a step takes, measured as it runs."""

from collections.abc import Callable

__all__ = ["StepClock"]

WEIGHT = 0.1  # of a new measurement in the running mean


class StepClock:
    """Seconds of one step by graph and by the number of rows, in classes that double: 1, 2, 3-4, 5-8, ...

    Args:
        width: how many rows a run of so many really has.
    """

    def __init__(self, width: Callable[[int], int]) -> None:
        self._width = width
        self._seconds: dict[bool, dict[int, float]] = {False: {}, True: {}}

    def measure(self, rows: int, full: bool, steps: int, seconds: float) -> None:
        """A run of `steps` steps took `seconds`."""
        size, step = self._class(rows), seconds / steps
        mean = self._seconds[full].setdefault(size, step)
        self._seconds[full][size] = mean + WEIGHT * (step - mean)

    def step_seconds(self, rows: int, full: bool) -> float:
        """Of the class of `rows`, or of the nearest one that was measured; 1 ms if none was."""
        measured = self._seconds[full]
        if not measured:
            return 1e-3
        size = self._class(rows)
        return measured[min(measured, key=lambda other: abs(other - size))]

    def _class(self, rows: int) -> int:
        return (self._width(rows) - 1).bit_length()
