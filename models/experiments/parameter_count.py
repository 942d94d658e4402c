"""How many hidden units give a model so many parameters."""

from collections.abc import Callable

from models.experiments.vary import variant
from models.network.char_lm import CharLM
from models.training.settings import TrainSettings

__all__ = ["hidden_for", "parameters_of"]

_MOST = 8192  # hidden units that a model may have
_SAMPLES = (2, 4, 6)  # even, as maxout needs them where it pools pairs


def parameters_of(settings: TrainSettings, vocab: int) -> int:
    """The number of parameters of the model that is meant, for so many characters."""
    return sum(parameter.numel() for parameter in CharLM(settings.model_of(vocab)).parameters())


def hidden_for(settings: TrainSettings, vocab: int, parameters: int) -> int:
    """The number of hidden units that brings a model nearest to so many parameters.

    The number of parameters is a polynomial of second degree in the hidden units, whatever the model: three small
    models tell which.
    """
    counts = [parameters_of(variant(settings, {"hidden": hidden}, settings.out), vocab) for hidden in _SAMPLES]
    count = _parabola(counts)
    step = 2 if (settings.activation, settings.form) == ("maxout", "pre") else 1
    return min(range(2, _MOST + 1, step), key=lambda hidden: abs(count(hidden) - parameters))


def _parabola(counts: list[int]) -> Callable[[int], float]:
    """Through the three points, by Newton's divided differences."""
    first, second, third = counts
    slope, bend = (second - first) / 2, (third - 2 * second + first) / 8
    return lambda hidden: first + slope * (hidden - 2) + bend * (hidden - 2) * (hidden - 4)
