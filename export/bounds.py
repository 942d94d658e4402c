"""Which models can be computed in 8 bits: those whose every matmul reads numbers that are bounded by construction."""

from models.activations import ACTIVATIONS
from models.config import ModelConfig

__all__ = ["Unbounded", "require_bounded", "unbounded_input"]


class Unbounded(ValueError):
    """A model cannot be computed in 8 bits; one line with the layer's name."""


def unbounded_input(config: ModelConfig) -> str | None:
    """The first layer whose matmul reads numbers without a bound, and why they have none; None if there is none.

    Batch normalisation is no reason: it becomes part of the weights (export/folding.py), and what the matmul reads is
    what was to be normalised.
    """
    if config.cell == "rnn" and not ACTIVATIONS[config.activation].bounded:
        return f"layers.0 reads its own output again, and {config.activation} has no bound"
    if config.norm == "layer":
        return f"{_reader(config, 0)} reads what a layer normalisation gives, which has no bound"
    if config.residual and config.layers > 1:
        return f"{_reader(config, 1)} reads the sum of layers.0 and layers.1, a residual connection"
    return None


def require_bounded(config: ModelConfig) -> None:
    """Raises Unbounded."""
    reason = unbounded_input(config)
    if reason:
        raise Unbounded(f"this model has no int8: {reason}; fp32 it has")


def _reader(config: ModelConfig, layer: int) -> str:
    """What reads a layer's output."""
    return f"layers.{layer + 1}" if layer + 1 < config.layers else "head"
