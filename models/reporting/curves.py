"""What a run left behind, read for plots and tables: its metrics as series, and the JSON file of its checkpoint."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.runs.metrics import METRICS, is_number, parsed
from models.training.checkpoint import BEST, LAST

__all__ = ["Axis", "RunCurves", "RunError", "Series", "axis_label", "common_unit", "read_curves", "smoothed"]

Axis = Literal["steps", "characters", "seconds"]
_LOSSES = ("loss", "validation", "carried")
_PARTS = ("model", "training", "settings")  # of a checkpoint's JSON: objects
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
        """The numbers of a key of metrics.jsonl; empty where the run has none."""
        found = [
            (line["step"], line.get("seconds", np.nan), line[key]) for line in self.lines if is_number(line.get(key))
        ]
        return Series(*np.array(found, np.float64).reshape(-1, 3).T)

    @property
    def has_loss(self) -> bool:
        return any(len(self.series(key)) for key in _LOSSES)

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
        return self.header.get("settings", {})

    @property
    def unit(self) -> str:
        """What the losses are per: character or byte."""
        return "byte" if self.header.get("unit") == "bytes" or "bytes" in self.lines[0] else "character"

    @cached_property
    def chars_per_step(self) -> int:
        """As the run tells; an older one does not, and its text may have been shorter than its windows."""
        for line in self.lines:
            done = line.get(f"{self.unit}s")
            if line["step"] and isinstance(done, int):
                return done // line["step"]
        return math.prod(size for size in map(self.settings.get, ("batch", "sequence")) if isinstance(size, int))

    @property
    def steps(self) -> int:
        return max((int(line["step"]) for line in self.lines), default=0)

    @property
    def seconds(self) -> float:
        return max((float(line.get("seconds", 0)) for line in self.lines), default=0.0)

    @property
    def parameters(self) -> int | None:
        found = self.header.get("training", {}).get("parameters")
        return found if isinstance(found, int) else None

    @property
    def samples(self) -> list[tuple[int, str]]:
        """The texts it wrote as training went on, each with the steps done."""
        return [(line["step"], line["sample"]) for line in self.lines if "sample" in line]


def read_curves(folder: Path, name: str | None = None) -> RunCurves:
    """Reads a run's folder, of a run that is done or one that still goes on. Raises RunError."""
    try:
        text = (folder / METRICS).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunError(f"{folder}: no run there ({METRICS}: {error.strerror})") from error
    lines = [line for line in map(parsed, text.splitlines()) if line]
    if not lines:
        raise RunError(f"{folder}: {METRICS} is empty: the run has measured nothing yet")
    return RunCurves(name or folder.resolve().name, folder, _header(folder), lines)


def common_unit(runs: Sequence[RunCurves]) -> str:
    """What the runs' losses are per; "symbol" for runs of characters beside runs of bytes."""
    units = {run.unit for run in runs}
    return units.pop() if len(units) == 1 else "symbol"


def axis_label(axis: Axis, unit: str) -> str:
    return {"steps": "optimiser steps", "characters": f"{unit}s trained on", "seconds": "seconds"}[axis]


def smoothed(series: Series) -> Series:
    """The mean of a twentieth of the curve's points around each; shorter at both ends."""
    half = int(len(series) * _SMOOTHED_OVER) // 2
    sums = np.concatenate([[0.0], np.cumsum(series.values)])
    places = np.arange(len(series))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(series))
    return Series(series.steps, series.seconds, (sums[high] - sums[low]) / (high - low))


def _header(folder: Path) -> Mapping[str, Any]:
    """The first that can be read, without parts that are no objects, as `settings` of a model from elsewhere."""
    for name in (LAST, BEST):
        try:
            found = json.loads((folder / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return {key: value for key, value in found.items() if key not in _PARTS or isinstance(value, dict)}
    return {}
