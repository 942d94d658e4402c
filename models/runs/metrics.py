"""metrics.jsonl, the measurements of a run, one JSON object a line; TensorBoard gets the same where it is wanted."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from models.atomic_files import replacement
from models.run_folder import METRICS, TENSORBOARD

__all__ = ["BoardMissing", "Metrics", "is_number", "parse_line"]

_LARGEST = 1e38  # a measurement, in float32
_MOST_STEPS = 2**53


class BoardMissing(ValueError):
    """TensorBoard is asked for, and not installed; the message is one line."""


class Metrics:
    """Appends lines to a run's metrics; each has the number of steps done, `step`.

    Args:
        board: whether TensorBoard gets them too.
        step: steps that the run has done; lines of later steps in TensorBoard's files are superseded.

    Raises:
        BoardMissing: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, *, board: bool = False, step: int = 0) -> None:
        self._file = folder / METRICS
        self._board = _open_board(folder / TENSORBOARD, step) if board else None

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
        """Drop the lines of steps after `step`, at which the checkpoint was made that the run goes on from."""
        text = self._file.read_text(encoding="utf-8", errors="replace") if self._file.exists() else ""
        kept = [line for line in text.splitlines() if parse_line(line).get("step", math.inf) <= step]
        with replacement(self._file) as new:
            new.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


class _Board(Protocol):
    """The methods of TensorBoard's SummaryWriter that are used."""

    def add_scalar(self, tag: str, value: float, step: int) -> Any: ...

    def add_text(self, tag: str, text: str, step: int) -> Any: ...

    def flush(self) -> Any: ...


def _open_board(folder: Path, step: int) -> _Board:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise BoardMissing(
            f"--tensorboard needs {error.name}, which the extra brings: pip install 'charstream[tensorboard]'"
        ) from error
    writer: _Board = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
    return writer


def parse_line(line: str) -> dict[str, Any]:
    """Return the content of a line of metrics.jsonl; {} for one that is damaged, or that a dying process cut off."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and _is_sound(found) else {}


def is_number(value: object) -> bool:
    """Whether a value is a number that plots can show: not NaN, and in the range of float32."""
    return isinstance(value, int | float) and abs(value) < _LARGEST


def _is_sound(line: Mapping[str, Any]) -> bool:
    step = line.get("step")
    return (
        isinstance(step, int)
        and 0 <= step < _MOST_STEPS
        and is_number(line.get("seconds", 0))
        and isinstance(line.get("sample", ""), str)
    )
