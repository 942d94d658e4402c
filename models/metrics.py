"""metrics.jsonl: what a run measured, one JSON object a line."""

import json
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
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        self._file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
