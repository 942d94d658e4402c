"""What a step takes, measured as it runs."""

__all__ = ["StepClock"]

WEIGHT = 0.1  # of a new measurement in the running mean


class StepClock:
    """Seconds of one step by the number of rows, in classes that double: 1, 2, 3-4, 5-8, ..."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def measure(self, rows: int, steps: int, seconds: float) -> None:
        """A run of `steps` steps took `seconds`."""
        size, step = _class(rows), seconds / steps
        mean = self._seconds.setdefault(size, step)
        self._seconds[size] = mean + WEIGHT * (step - mean)

    def step_seconds(self, rows: int) -> float:
        """Of the class of `rows`, or of the nearest one that was measured; 1 ms if none was."""
        if not self._seconds:
            return 1e-3
        size = _class(rows)
        return self._seconds[min(self._seconds, key=lambda measured: abs(measured - size))]


def _class(rows: int) -> int:
    return (rows - 1).bit_length()
