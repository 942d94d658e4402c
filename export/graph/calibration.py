"""Which inputs the matmuls of a step have, on texts that the model writes itself: no other text is needed."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bundle.philox import uniforms

__all__ = ["ROWS", "input_moments"]

ROWS, STEPS = 32, 128


@torch.no_grad()
def input_moments(step: nn.Module, matmuls: Mapping[str, nn.Module], state: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the second moments float64 [K, K] of the inputs of each matmul, by its name.

    Args:
        step: token [B] and the state -> logits [B, V] and the state.
        matmuls: modules of it that read one tensor [B, K].
        state: of a new text, each [ROWS, H].
    """
    inputs: dict[nn.Module, list[Tensor]] = {module: [] for module in matmuls.values()}
    hooks = [module.register_forward_pre_hook(lambda own, read: inputs[own].append(read[0])) for module in inputs]
    token = torch.zeros(ROWS, dtype=torch.int64)
    for numbers in torch.from_numpy(uniforms(np.arange(ROWS), 1, STEPS)):
        logits, *state = step(token, *state)
        shares = logits.double().softmax(1).cumsum(1)
        token = (shares[:, :-1] <= numbers.unsqueeze(1)).sum(1)
    for hook in hooks:
        hook.remove()
    found: dict[int, Tensor] = {}  # gates that read the same tensors share their moments
    for samples in inputs.values():
        if id(samples[0]) not in found:
            found[id(samples[0])] = _moments(torch.cat(samples).double())
    return {name: found[id(inputs[module][0])] for name, module in matmuls.items()}


def _moments(x: Tensor) -> Tensor:
    return x.T @ x / len(x)
