"""Confidence intervals of a mean loss, although the losses of neighbouring symbols are not independent."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEWEST", "LEVEL", "Interval", "autocorrelation", "block_length", "bootstrap", "hoeffding"]

LEVEL = 0.95
RESAMPLES = 2000
FEWEST = 30  # values that an interval needs
_LONGEST = 1 << 20  # the most values that the length of the blocks is computed from

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Interval:
    """A confidence interval of the mean.

    Attributes:
        block: values in a block.
        error: standard error of the mean.
    """

    low: float
    high: float
    block: int
    error: float


def bootstrap(values: Floats, seed: int = 0) -> Interval:
    """Return the interval of the mean of a series by the circular block bootstrap (Politis and Romano, 1992).

    2,000 times, blocks of neighbouring values are drawn with replacement until they are as long as the series; it is
    closed to a circle, so that each value is drawn equally often. The interval holds the middle 95 % of the means.

    Args:
        values: [N], N from `FEWEST`.
    """
    size, block = len(values), block_length(values)
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: block - 1]]), dtype=np.float64)])
    of_blocks, blocks = sums[block:] - sums[:-block], -(-size // block)
    rng = np.random.default_rng(seed)
    means = [of_blocks[rng.integers(size, size=blocks)].sum() / (blocks * block) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), block, float(np.std(means)))


def hoeffding(values: Floats) -> float:
    """Return half of the interval by Hoeffding's inequality (1963): L sqrt(ln(2 / 0.05) / 2N).

    It holds for independent values in [0, L]. A loss has no such L; the largest one seen stands for it.
    """
    return float(np.max(values)) * math.sqrt(math.log(2 / (1 - LEVEL)) / (2 * len(values)))


def block_length(values: Floats) -> int:
    """Return the length of blocks that minimises the error of the bootstrap's variance.

    Politis and White (2004), corrected by Patton, Politis and White (2009): (2 G^2 / D)^(1/3) N^(1/3), from the
    autocovariances up to twice the lag from which on they are no more than noise.
    """
    size = len(values)
    lags = int(math.sqrt(min(size, _LONGEST))) + 1
    correlation = autocorrelation(values, 2 * lags)
    reach = min(2 * _last_clear_lag(correlation, size), lags)
    lag = np.arange(1, reach + 1)
    weight = np.minimum(1, 2 * (1 - lag / max(1, reach)))  # the flat-top window
    long_run = 1 + 2 * float((weight * correlation[1 : reach + 1]).sum())
    slope = 2 * float((weight * lag * correlation[1 : reach + 1]).sum())
    found = (1.5 * (slope / long_run) ** 2 * size) ** (1 / 3) if long_run > 0 else math.inf
    return max(1, math.ceil(min(found, 3 * math.sqrt(size), size / 3)))


def autocorrelation(values: Floats, lags: int) -> NDArray[np.float64]:
    """Return the correlation of values with those 0 ... lags places later, [lags + 1], from the first million."""
    centred = np.asarray(values[:_LONGEST], np.float64)
    centred = centred - centred.mean()
    lags = min(lags, len(centred) - 1)
    found = np.array([centred[: len(centred) - lag] @ centred[lag:] for lag in range(lags + 1)])
    return found / max(float(found[0]), np.finfo(float).tiny)


def _last_clear_lag(correlation: NDArray[np.float64], size: int) -> int:
    """Return the lag after which several correlations in a row are as small as those of independent values."""
    noise, several = 2 * math.sqrt(math.log10(size) / size), max(5, math.ceil(math.sqrt(math.log10(size))))
    quiet = np.abs(correlation[1:]) < noise
    runs = np.convolve(quiet, np.ones(several, int), "valid") == several
    return int(runs.argmax()) if runs.any() else len(correlation) - 1
