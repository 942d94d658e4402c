"""Which models can be computed in fewer bits: those whose numbers have a bound by construction.

In 8 bits that is everything that a matmul reads; in 16 bits only what is read again and again may not grow.
"""

from bundle.manifest import Precision
from bundle.shape import BOUNDED
from models.network.config import ModelConfig

__all__ = ["REDUCED", "Unbounded", "require_bounded", "unbounded_input"]

# The precisions that a model may lose by.
REDUCED: tuple[Precision, ...] = ("int8", "fp16-cuda")


class Unbounded(ValueError):
    """A model cannot be computed in a precision; one line with the layer's name."""


def unbounded_input(config: ModelConfig, precision: Precision) -> str | None:
    """The first layer whose matmul reads numbers without a bound that the precision needs, and why they have none; None
    if there is none.

    Batch normalisation is no reason: it becomes part of the weights (export/graph/folding.py), and the matmul reads
    what was to be normalised.
    """
    if precision in REDUCED and config.cell == "rnn" and config.activation not in BOUNDED:
        return f"layers.0 reads its own output again, and {config.activation} has no bound"
    if precision != "int8":
        return None
    if config.norm == "layer":
        return f"{_reader(config, 0)} reads what a layer normalisation gives, which has no bound"
    if config.residual and config.layers > 1:
        return f"{_reader(config, 1)} reads the sum of layers.0 and layers.1, a residual connection"
    return None


def require_bounded(config: ModelConfig, precision: Precision) -> None:
    """Raises Unbounded."""
    reason = unbounded_input(config, precision)
    if reason:
        raise Unbounded(f"this model has no {precision}: {reason}; fp32 it has")


def _reader(config: ModelConfig, layer: int) -> str:
    """What reads a layer's output."""
    return f"layers.{layer + 1}" if layer + 1 < config.layers else "head"
