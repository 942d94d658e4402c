"""metrics.jsonl: what a run measured, one JSON object a line; and the same for TensorBoard, where it is wanted."""

import json
import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from models.training.loss_guard import StepOutcome

__all__ = ["BOARD", "METRICS", "BoardMissing", "Metrics", "Recent", "is_number", "parsed"]

METRICS = "metrics.jsonl"
BOARD = "tensorboard"  # the folder of TensorBoard's files
_LARGEST = 1e38  # of what is measured, in float32
_MOST_STEPS = 2**53


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
        text = self._file.read_text(encoding="utf-8", errors="replace") if self._file.exists() else ""
        kept = [line for line in text.splitlines() if parsed(line).get("step", math.inf) <= step]
        new = self._file.with_name(f".{METRICS}.new")
        new.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
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


def parsed(line: str) -> dict[str, Any]:
    """A line of metrics.jsonl; {} for one that a dying process cut off, or that is damaged."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and _is_sound(found) else {}


def is_number(value: object) -> bool:
    """Whether it can be shown: no NaN, and nothing beyond what float32 has."""
    return isinstance(value, int | float) and abs(value) < _LARGEST


def _is_sound(line: Mapping[str, Any]) -> bool:
    step = line.get("step")
    return (
        isinstance(step, int)
        and 0 <= step < _MOST_STEPS
        and is_number(line.get("seconds", 0))
        and isinstance(line.get("sample", ""), str)
    )
