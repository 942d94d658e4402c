"""A run's measurements, read from its folder for plots and tables: metrics as series, and a checkpoint's header."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.run_folder import BEST, LAST, METRICS, header_file
from models.runs.metrics import is_number, parse_line

__all__ = ["Axis", "RunCurves", "RunError", "Series", "axis_label", "common_unit", "read_curves", "smooth"]

Axis = Literal["steps", "characters", "seconds"]
_LOSSES = ("loss", "validation", "carried")
_PARTS = ("model", "training", "settings")  # of a checkpoint's header: JSON objects
_SMOOTHED_OVER = 1 / 20  # of a curve's points


class RunError(ValueError):
    """There is no run, or it has nothing to show; the message is one line."""


@dataclass(frozen=True)
class Series:
    """One measurement over the steps of a training; `steps`, `seconds` and `values` are [N] float64."""

    steps: NDArray[np.float64]
    seconds: NDArray[np.float64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, points: Sequence[tuple[float, float, float]]) -> "Series":
        """Return a series of points (step, seconds, value)."""
        return cls(*np.array(points, np.float64).reshape(-1, 3).T)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class RunCurves:
    """The measurements of a run. `header`: the content of a checkpoint's JSON file, {} if there is none yet."""

    name: str
    folder: Path
    header: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]

    def series(self, key: str) -> Series:
        """Return the numbers of a key of metrics.jsonl; empty if the run has none."""
        return Series.of(
            [(line["step"], line.get("seconds", np.nan), line[key]) for line in self.lines if is_number(line.get(key))]
        )

    @property
    def has_loss(self) -> bool:
        return any(len(self.series(key)) for key in _LOSSES)

    def last(self, key: str) -> float | None:
        """Return the last finite value of a key; None without one."""
        values = self.series(key).values
        return float(values[-1]) if len(values) else None

    def x(self, series: Series, axis: Axis) -> NDArray[np.float64]:
        """Return the places of a series' points on an axis."""
        if axis == "seconds":
            return series.seconds
        return series.steps * (self.chars_per_step if axis == "characters" else 1)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The settings that the run was begun with."""
        return self.header.get("settings", {})

    @property
    def unit(self) -> str:
        """The unit of a symbol, which losses are per: character or byte."""
        return "byte" if self.header.get("unit") == "bytes" or "bytes" in self.lines[0] else "character"

    @cached_property
    def chars_per_step(self) -> int:
        """As the metrics say; an older run's do not, and its windows may have been shorter than its settings say."""
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
        """The texts that the model wrote during training, each with the number of steps done."""
        return [(line["step"], line["sample"]) for line in self.lines if "sample" in line]


def read_curves(folder: Path, name: str | None = None) -> RunCurves:
    """Read the folder of a run, which may still go on. Raises RunError."""
    try:
        text = (folder / METRICS).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunError(
            f"{folder}: no run there ({METRICS}: {error.strerror}); `charstream train --out FOLDER` makes one"
        ) from error
    lines = [line for line in map(parse_line, text.splitlines()) if line]
    if not lines:
        raise RunError(f"{folder}: {METRICS} is empty: the run has measured nothing yet")
    return RunCurves(name or folder.resolve().name, folder, _header(folder), lines)


def common_unit(runs: Sequence[RunCurves]) -> str:
    """Return the unit of a symbol in all runs; "symbol" for runs of characters beside runs of bytes."""
    units = {run.unit for run in runs}
    return units.pop() if len(units) == 1 else "symbol"


def axis_label(axis: Axis, unit: str) -> str:
    return {"steps": "optimiser steps", "characters": f"{unit}s trained on", "seconds": "seconds"}[axis]


def smooth(series: Series) -> Series:
    """Return the mean of a twentieth of the curve's points around each point, and of fewer at both ends."""
    half = int(len(series) * _SMOOTHED_OVER) // 2
    sums = np.concatenate([[0.0], np.cumsum(series.values)])
    places = np.arange(len(series))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(series))
    return Series(series.steps, series.seconds, (sums[high] - sums[low]) / (high - low))


def _header(folder: Path) -> Mapping[str, Any]:
    """Return the first header that can be read, without parts that are null, as `settings` of an imported model are."""
    for name in (LAST, BEST):
        try:
            found = json.loads(header_file(folder, name).read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return {key: value for key, value in found.items() if key not in _PARTS or isinstance(value, dict)}
    return {}
