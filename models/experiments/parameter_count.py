"""The number of a model's parameters, and the number of hidden units that gives it."""

from collections.abc import Callable

from models.experiments.vary import variant
from models.network.char_lm import CharLM
from models.training.settings import TrainSettings

__all__ = ["hidden_for", "parameters_of"]

_MOST = 8192  # hidden units that a model may have
_SAMPLES = (2, 4, 6)  # hidden units of small models; even, as maxout of the form pre needs them


def parameters_of(settings: TrainSettings, vocab: int) -> int:
    """Return the number of parameters of the model of these settings with `vocab` characters."""
    return sum(parameter.numel() for parameter in CharLM(settings.model_of(vocab)).parameters())


def hidden_for(settings: TrainSettings, vocab: int, parameters: int) -> int:
    """Return the number of hidden units that brings a model nearest to `parameters`.

    The number of parameters of every model is a polynomial of second degree in the hidden units: three small models
    determine it.
    """
    counts = [parameters_of(variant(settings, {"hidden": hidden}, settings.out), vocab) for hidden in _SAMPLES]
    count = _parabola(counts)
    step = 2 if (settings.activation, settings.form) == ("maxout", "pre") else 1
    return min(range(2, _MOST + 1, step), key=lambda hidden: abs(count(hidden) - parameters))


def _parabola(counts: list[int]) -> Callable[[int], float]:
    """Return the parabola through the points at `_SAMPLES`, by Newton's divided differences."""
    first, second, third = counts
    slope, bend = (second - first) / 2, (third - 2 * second + first) / 8
    return lambda hidden: first + slope * (hidden - 2) + bend * (hidden - 2) * (hidden - 4)
