"""When streams should begin where they do not wait for each other (an open loop). No clock, no network."""

import random
from collections.abc import Iterator
from typing import Literal

__all__ = ["Arrivals", "arrival_times", "share_of"]

Arrivals = Literal["poisson", "constant", "gamma"]


def arrival_times(kind: Arrivals, rate: float, *, burstiness: float = 1.0, seed: int = 0) -> Iterator[float]:
    """Yield the times of arrivals, in seconds from the beginning, upwards and without end.

    Args:
        rate: arrivals a second, on average.
        burstiness: the shape of the gamma distribution of the times between arrivals: 1 is poisson, less comes in
            bursts, more is steadier. (vLLM's benchmark calls it so, too.)
    """
    chance = random.Random(seed)
    at = 0.0
    while True:
        if kind == "constant":
            at += 1 / rate
        elif kind == "poisson":
            at += chance.expovariate(rate)
        else:
            at += chance.gammavariate(burstiness, 1 / (rate * burstiness))
        yield at


def share_of(times: Iterator[float], index: int, count: int) -> Iterator[tuple[int, float]]:
    """Yield the number and the time of every `count`th arrival from `index` on: all indices together have each once."""
    return ((number, at) for number, at in enumerate(times) if number % count == index)
