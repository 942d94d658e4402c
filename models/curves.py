"""What a run left behind, read for plots and tables: its metrics as series, and the JSON file of its checkpoint."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import BEST, LAST
from models.metrics import METRICS

__all__ = ["AXIS_LABELS", "Axis", "RunCurves", "RunError", "Series", "read_curves", "smoothed"]

Axis = Literal["steps", "characters", "seconds"]
AXIS_LABELS: dict[Axis, str] = {
    "steps": "optimiser steps",
    "characters": "characters trained on",
    "seconds": "seconds",
}
_SMOOTHED_OVER = 1 / 20  # of a curve's points


class RunError(ValueError):
    """There is no run, or nothing in it to show; the message is one line."""


@dataclass(frozen=True)
class Series:
    """One figure of a run over time; `values`, `steps` and `seconds` are [N] float64."""

    steps: NDArray[np.float64]
    seconds: NDArray[np.float64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class RunCurves:
    """A run as its folder tells it. `header`: the checkpoint's JSON, {} where there is none yet."""

    name: str
    folder: Path
    header: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]

    def series(self, key: str) -> Series:
        """The finite values of a key of metrics.jsonl; empty where the run has none."""
        found = [(line["step"], line.get("seconds", np.nan), line[key]) for line in self.lines if key in line]
        columns = np.array(found, np.float64).reshape(-1, 3).T
        return Series(*columns[:, np.isfinite(columns[2])])

    def last(self, key: str) -> float | None:
        """The last finite value of a key; None without one."""
        values = self.series(key).values
        return float(values[-1]) if len(values) else None

    def x(self, series: Series, axis: Axis) -> NDArray[np.float64]:
        """Where the points of a series lie."""
        if axis == "seconds":
            return series.seconds
        return series.steps * (self.chars_per_step if axis == "characters" else 1)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Those that the run was begun with."""
        return self.header.get("settings") or {}

    @property
    def chars_per_step(self) -> int:
        return int(self.settings.get("batch", 1)) * int(self.settings.get("sequence", 1))

    @property
    def steps(self) -> int:
        return max((int(line["step"]) for line in self.lines), default=0)

    @property
    def seconds(self) -> float:
        return max((float(line.get("seconds", 0)) for line in self.lines), default=0.0)

    @property
    def parameters(self) -> int | None:
        return self.header.get("training", {}).get("parameters")

    @property
    def samples(self) -> list[tuple[int, str]]:
        """The texts it wrote as training went on, each with the steps done."""
        return [(line["step"], line["sample"]) for line in self.lines if "sample" in line]


def read_curves(folder: Path, name: str | None = None) -> RunCurves:
    """Reads a run's folder, of a run that is done or one that still goes on. Raises RunError."""
    try:
        text = (folder / METRICS).read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder}: no run there ({METRICS}: {error.strerror})") from error
    lines = [line for line in map(_parsed, text.splitlines()) if "step" in line]
    if not lines:
        raise RunError(f"{folder}: {METRICS} is empty: the run has measured nothing yet")
    return RunCurves(name or folder.resolve().name, folder, _header(folder), lines)


def smoothed(series: Series) -> Series:
    """The mean of a twentieth of the curve's points around each; shorter at both ends."""
    half = int(len(series) * _SMOOTHED_OVER) // 2
    sums = np.concatenate([[0.0], np.cumsum(series.values)])
    places = np.arange(len(series))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(series))
    return Series(series.steps, series.seconds, (sums[high] - sums[low]) / (high - low))


def _parsed(line: str) -> dict[str, Any]:
    """A line of metrics.jsonl; {} for one that a dying process cut off."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _header(folder: Path) -> Mapping[str, Any]:
    for name in (LAST, BEST):
        try:
            return json.loads((folder / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            continue
    return {}
