"""The cost of fewer bits, measured on texts that the model generates itself: no other text is needed."""

import torch

from bundle.manifest import Precision
from export.graph.modules import StepGraph
from models.network.char_lm import CharLM

__all__ = ["MAX_COST", "quantization_cost"]

# Highest cost at which a precision is offered, in nats per character.
MAX_COST = 0.003
ROWS, STEPS, SEED = 32, 128, 1


@torch.inference_mode()
def quantization_cost(model: CharLM, start: int, precision: Precision) -> float:
    """Return by how many nats per character the loss is higher in a precision, on texts of the float32 model.

    This is the mean of KL(fp32 || precision). It is not finite if a number exceeds the precision's range.

    Args:
        start: the token before every text.

    Raises:
        Unbounded: the model cannot be computed in this precision.
    """
    exact = StepGraph(model).eval()
    reduced = exact.in_precision(precision)
    reduced.unpack()
    steps = (exact, reduced)
    states = [list(model.initial_state(ROWS)) for _ in steps]
    token, total = torch.full((ROWS,), start), 0.0
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(STEPS):
        logs = []
        for step, state in zip(steps, states, strict=True):
            logits, *state[:] = step(token, *state)
            logs.append(logits.double().log_softmax(1))
        probabilities = logs[0].exp()
        total += float((probabilities * (logs[0] - logs[1])).sum(1).mean())
        token = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
    return total / STEPS
