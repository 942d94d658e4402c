"""What a step takes, measured as it runs."""

__all__ = ["StepClock"]

WEIGHT = 0.1  # of a new measurement in the running mean


class StepClock:
    """Seconds of one step by graph and by the number of rows, in classes that double: 1, 2, 3-4, 5-8, ..."""

    def __init__(self) -> None:
        self._seconds: dict[bool, dict[int, float]] = {False: {}, True: {}}

    def measure(self, rows: int, full: bool, steps: int, seconds: float) -> None:
        """A run of `steps` steps took `seconds`."""
        size, step = _class(rows), seconds / steps
        mean = self._seconds[full].setdefault(size, step)
        self._seconds[full][size] = mean + WEIGHT * (step - mean)

    def step_seconds(self, rows: int, full: bool) -> float:
        """Of the class of `rows`, or of the nearest one that was measured; 1 ms if none was."""
        measured = self._seconds[full]
        if not measured:
            return 1e-3
        size = _class(rows)
        return measured[min(measured, key=lambda other: abs(other - size))]


def _class(rows: int) -> int:
    return (rows - 1).bit_length()
