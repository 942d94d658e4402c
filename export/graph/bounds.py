"""Which models can be computed in fewer bits: those whose numbers are bounded by construction.

In 8 bits every input of a matmul must be bounded; in 16 bits only what a layer reads of itself must be.
"""

from bundle.manifest import Precision
from bundle.shape import BOUNDED, BOUNDED_CELLS
from models.network.config import ModelConfig

__all__ = ["LOSSY_PRECISIONS", "Unbounded", "require_bounded", "unbounded_input"]

LOSSY_PRECISIONS: tuple[Precision, ...] = ("int8", "fp16-cuda")


class Unbounded(ValueError):
    """A model cannot be computed in a precision. The message is one line with the layer's name."""


def unbounded_input(config: ModelConfig, precision: Precision) -> str | None:
    """Return which layer's matmul reads unbounded numbers in a precision that needs a bound, and why; else None.

    Batch normalisation is no reason: it becomes part of the weights (export/graph/folding.py), so the matmul reads the
    numbers before normalisation.
    """
    is_bounded = config.activation in BOUNDED if config.cell == "rnn" else config.cell in BOUNDED_CELLS
    if precision in LOSSY_PRECISIONS and not is_bounded:
        name = config.activation if config.cell == "rnn" else f"a {config.cell}'s state"
        return f"layers.0 reads its own output again, and {name} has no bound"
    if precision != "int8":
        return None
    if config.norm == "layer":
        return f"{_name_above(config, 0)} reads what a layer normalisation gives, which has no bound"
    if config.residual and config.layers > 1:
        return f"{_name_above(config, 1)} reads the sum of layers.0 and layers.1, a residual connection"
    return None


def require_bounded(config: ModelConfig, precision: Precision) -> None:
    """Raise Unbounded if a matmul would read unbounded numbers."""
    reason = unbounded_input(config, precision)
    if reason:
        raise Unbounded(f"this model has no {precision}: {reason}; fp32 it has")


def _name_above(config: ModelConfig, layer: int) -> str:
    """Return the name of the module that reads a layer's output."""
    return f"layers.{layer + 1}" if layer + 1 < config.layers else "head"
