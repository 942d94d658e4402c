"""Generation in plain torch, one step at a time: the reference that every faster way must equal."""

import numpy as np
import torch
from torch import Tensor

from bundle.philox import uniforms
from bundle.vocabulary import Vocabulary
from models.network.char_lm import CharLM

__all__ = ["generate"]

# The largest float32 factor that keeps u * total below total when the product is rounded.
LARGEST_UNIFORM = 1 - 2**-23


@torch.inference_mode()
def generate(
    model: CharLM,
    vocabulary: Vocabulary,
    start_text: str,
    prompt: str,
    max_chars: int,
    *,
    temperature: float = 1.0,
    seed: int = 0,
) -> str:
    """Continue `prompt`.

    The start character has position 0, the prompt's characters are forced outcomes at the positions 1, 2, ..., and
    the outcome at position p is decided by the uniform number of (seed, p).

    Args:
        model: in eval mode, float32.
        start_text: the character before every text.
        max_chars: the number of characters to generate.
        temperature: 0 takes the most probable character (the lowest number among equals).

    Returns:
        The max_chars generated characters, without the prompt.

    Raises:
        UnknownCharacter: the prompt holds a character that the vocabulary does not.
    """
    state, given = model.initial_state(1), vocabulary.encode(start_text + prompt)
    random = uniforms([seed], [len(given)], max_chars)[:, 0]
    for token in given[:-1]:
        _, state = model(torch.tensor([[token]]), state)
    outcomes, token = [], int(given[-1])
    for uniform in random:
        logits, state = model(torch.tensor([[token]]), state)
        token = _draw(logits[0, 0], temperature, float(uniform))
        outcomes.append(token)
    return vocabulary.decode(np.array(outcomes, np.int64))


def _draw(logits: Tensor, temperature: float, uniform: float) -> int:
    """Return the character that `uniform` in [0, 1) decides: logits [V]; inverse CDF in vocabulary order."""
    if temperature == 0:
        return int(logits.argmax())
    # Nothing overflows below the largest logit, however small the temperature.
    cdf = torch.softmax((logits - logits.max()) / temperature, 0).cumsum(0)
    threshold = min(uniform, LARGEST_UNIFORM) * cdf[-1]
    return int((cdf <= threshold).sum())
