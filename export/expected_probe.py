"""The expected result of the probe in bundle/probe.py: the outcomes of which torch is sure."""

import torch

from bundle.manifest import Precision
from bundle.probe import ROWS, SAMPLED, probe_inputs
from bundle.vocabulary import Vocabulary
from export.graph.modules import StepGraph
from models.network.char_lm import State

__all__ = ["expected_texts"]

# A random number must lie at least this far inside its character's share, so that no correct machine decides otherwise.
MARGIN: dict[Precision, float] = {"fp32": 1e-4, "int8": 5e-3, "fp32-cuda": 1e-4, "fp16-cuda": 1e-2}


@torch.inference_mode()
def expected_texts(step: StepGraph, state: State, vocabulary: Vocabulary, precision: Precision) -> tuple[str, ...]:
    """Return the sampled characters of each row of the probe, up to the first one that is not certain.

    Args:
        state: zeros, each [ROWS, H].
    """
    forced, uniform = probe_inputs(len(vocabulary), ROWS)
    token, texts, certain = torch.zeros(ROWS, dtype=torch.int64), [""] * ROWS, [True] * ROWS
    for k, forced_tokens in enumerate(forced):
        logits, *state = step(token, *state)
        if k < len(forced) - SAMPLED:
            token = torch.from_numpy(forced_tokens)
            continue
        outcomes = [_outcome(row, float(u), MARGIN[precision]) for row, u in zip(logits, uniform[k], strict=True)]
        for row, (outcome, sure) in enumerate(outcomes):
            certain[row] &= sure
            texts[row] += vocabulary.symbols[outcome] if certain[row] else ""
        token = torch.tensor([outcome for outcome, _ in outcomes])
    return tuple(texts)


def _outcome(logits: torch.Tensor, uniform: float, margin: float) -> tuple[int, bool]:
    """Return the outcome, and whether it stays the same if the random number moves by the margin."""
    cdf = logits.double().softmax(0).cumsum(0).numpy()
    low, outcome, high = (int((cdf <= u).sum()) for u in (uniform - margin, uniform, uniform + margin))
    return min(outcome, len(cdf) - 1), low == outcome == min(high, len(cdf) - 1)
