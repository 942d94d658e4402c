"""What fewer bits cost a model, measured on texts that it writes itself: no other text is needed."""

import torch

from bundle.manifest import Precision
from export.graph.modules import StepGraph
from models.network.char_lm import CharLM

__all__ = ["MOST_LOSS", "cost"]

# What a precision may cost, in nats a character.
MOST_LOSS = 0.003
ROWS, STEPS, SEED = 32, 128, 1


@torch.inference_mode()
def cost(model: CharLM, start: int, precision: Precision) -> float:
    """Nats a character by which the model loses more in a precision, on texts of the float32 one: the mean of
    KL(fp32 || precision). Not finite where a number is beyond what the precision can hold.

    Args:
        start: the number of the character after which texts begin.

    Raises:
        Unbounded: the model cannot be computed in it at all.
    """
    exact = StepGraph(model).eval()
    steps = (exact, exact.at(precision))
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
