"""The space of a search: an interval of numbers or a choice of values for each option."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import Trial

from models.experiments.settings import SearchSettings
from models.experiments.vary import VaryError, kind_of, split_option, value_of, values_of, variant

__all__ = ["Choice", "Dimension", "Interval", "dimension", "require_possible"]

_LOG_FROM = 10  # ratio of an interval's ends from which on it is logarithmic
_FINE_WIDTH = 0.25  # share of the whole interval


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`; `log`: evenly spread in the logarithm."""

    name: str
    low: float
    high: float
    log: bool
    whole: bool

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high

    def suggest(self, trial: Trial) -> float:
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def narrow(self, values: Sequence[float]) -> "Interval":
        """Return a quarter of the interval around the mean of `values`, inside the interval."""
        to, back = (math.log, math.exp) if self.log else (float, float)
        low, high = to(self.low), to(self.high)
        width = (high - low) * _FINE_WIDTH
        start = min(max(sum(map(to, values)) / len(values) - width / 2, low), high - width)
        first, last = max(self.low, back(start)), min(self.high, back(start + width))
        if self.whole:
            first, last = math.floor(first), math.ceil(last)
        return Interval(self.name, first, last, self.log, self.whole)


@dataclass(frozen=True)
class Choice:
    """A choice of a few values without an order."""

    name: str
    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.values

    def suggest(self, trial: Trial) -> Any:
        return trial.suggest_categorical(self.name, self.values)

    def narrow(self, values: Sequence[Any]) -> "Choice":
        """Return the choice itself: of a few values the best shows without a closer look."""
        return self


Dimension = Interval | Choice


def dimension(text: str) -> Dimension:
    """Return the dimension that is written NAME=LOW..HIGH or NAME=A,B,C. Raises VaryError."""
    name, values = split_option(text)
    low, dots, high = values.partition("..")
    if not dots:
        return Choice(name, tuple(values_of(name, values)))
    kind = kind_of(name)
    if kind is None:
        raise VaryError(f"{text!r}: {name} is not a number: give its values with commas between them")
    first, last = value_of(name, low.strip()), value_of(name, high.strip())
    if first is None or last is None or not first < last:
        raise VaryError(f"{text!r}: {low} is not below {high}")
    return Interval(name, first, last, log=first > 0 and last >= _LOG_FROM * first, whole=kind is int)


def require_possible(settings: SearchSettings, space: Sequence[Dimension]) -> None:
    """Raise VaryError if no combination of the dimensions' ends is possible."""
    reason = None
    for values in itertools.product(*(one.ends for one in space)):
        changes = {one.name: value for one, value in zip(space, values, strict=True)}
        try:
            variant(settings, changes, settings.out)
        except VaryError as error:
            reason = error
        else:
            return
    if reason:
        raise reason
