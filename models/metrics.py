"""metrics.jsonl: what a run measured, one JSON object a line."""

import json
import math
from pathlib import Path

__all__ = ["METRICS", "Metrics"]

METRICS = "metrics.jsonl"


class Metrics:
    """Appends to a run's metrics; every object has the number of steps done, `step`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / METRICS

    def add(self, *, step: int, **values: float | str) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def forget_after(self, step: int) -> None:
        """Drops what was measured after the checkpoint that a run goes on from."""
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        new = self._file.with_name(f".{METRICS}.new")
        new.write_text("".join(line + "\n" for line in lines if _step(line) <= step), encoding="utf-8")
        new.replace(self._file)


def _step(line: str) -> float:
    """The steps done at a line; infinite for one that a dying process cut off."""
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return math.inf
