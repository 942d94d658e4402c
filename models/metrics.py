"""metrics.jsonl: what a run measured, one JSON object a line; and the same for TensorBoard, where it is wanted."""

import json
import math
from collections import deque
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from models.trainer import StepOutcome

__all__ = ["BOARD", "METRICS", "BoardMissing", "Metrics", "Recent"]

METRICS = "metrics.jsonl"
BOARD = "tensorboard"  # the folder of TensorBoard's files


class BoardMissing(ValueError):
    """TensorBoard is asked for, and not installed; one line."""


class Metrics:
    """Appends to a run's metrics; every object has the number of steps done, `step`.

    Args:
        board: whether TensorBoard gets them too.
        step: of the run so far; what TensorBoard's files have of later steps is superseded.

    Raises:
        BoardMissing
    """

    def __init__(self, folder: Path, *, board: bool = False, step: int = 0) -> None:
        self._file = folder / METRICS
        self._board = _writer(folder / BOARD, step) if board else None

    def add(self, *, step: int, **values: float | str) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board:
            for name, value in values.items():
                if isinstance(value, str):
                    self._board.add_text(name, f"```\n{value}\n```", step)
                else:
                    self._board.add_scalar(name, value, step)
            self._board.flush()

    def forget_after(self, step: int) -> None:
        """Drops what was measured after the checkpoint that a run goes on from."""
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        new = self._file.with_name(f".{METRICS}.new")
        new.write_text("".join(line + "\n" for line in lines if _step(line) <= step), encoding="utf-8")
        new.replace(self._file)


class Recent:
    """The last steps, as a line of the metrics tells of them.

    Args:
        steps: how many.
    """

    def __init__(self, steps: int) -> None:
        self._taken: deque[StepOutcome] = deque(maxlen=steps)

    def add(self, outcome: StepOutcome) -> None:
        """Steps that were not taken count in no mean: what they have may be no number."""
        if outcome.taken:
            self._taken.append(outcome)

    @property
    def loss(self) -> float | None:
        """Mean of the steps' losses; None before the first one."""
        return fmean(outcome.loss for outcome in self._taken) if self._taken else None

    def facts(self) -> dict[str, float]:
        """loss, gradient_norm (mean), gradient_norm_max, and update_ratio of the last step."""
        if self.loss is None:
            return {}
        norms = [outcome.gradient_norm for outcome in self._taken]
        facts = {"loss": self.loss, "gradient_norm": fmean(norms), "gradient_norm_max": max(norms)}
        ratio = self._taken[-1].update_ratio
        return facts if ratio is None else {**facts, "update_ratio": ratio}


class _Board(Protocol):
    def add_scalar(self, tag: str, value: float, step: int) -> Any: ...

    def add_text(self, tag: str, text: str, step: int) -> Any: ...

    def flush(self) -> Any: ...


def _writer(folder: Path, step: int) -> _Board:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise BoardMissing(
            f"--tensorboard needs {error.name}, which the extra brings: pip install 'charstream[tensorboard]'"
        ) from error
    writer: _Board = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
    return writer


def _step(line: str) -> float:
    """The steps done at a line; infinite for one that a dying process cut off."""
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return math.inf
