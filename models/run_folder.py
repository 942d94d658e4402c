"""The names of the files in a training run's folder."""

from pathlib import Path

__all__ = [
    "BEST",
    "CHECKS",
    "CHECK_REPORT",
    "FIRST",
    "LAST",
    "LOCK",
    "METRICS",
    "PAGE",
    "TENSORBOARD",
    "header_file",
    "holds_run",
]

BEST, LAST = "best", "last"  # checkpoints: NAME.json, and beside it the file of tensors that it names
FIRST = "first"  # the weights of the first check, to compare with
METRICS = "metrics.jsonl"
LOCK = ".lock"
PAGE = "report.html"  # what `charstream report` writes
TENSORBOARD = "tensorboard"  # folder of TensorBoard's files
CHECKS, CHECK_REPORT = "check", "check.json"  # folder of what `charstream check` leaves, and its report in there


def header_file(folder: Path, name: str) -> Path:
    """Return the path of the JSON file of the checkpoint `name`: FIRST, BEST or LAST."""
    return folder / f"{name}.json"


def holds_run(folder: Path) -> bool:
    """Whether a run was trained or imported into the folder."""
    return any(file.exists() for file in (header_file(folder, BEST), header_file(folder, LAST), folder / METRICS))
