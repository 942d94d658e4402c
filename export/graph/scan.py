"""K steps as torch's scan operator, which the exporter makes ONNX's Scan."""

from collections.abc import Callable, Sequence
from itertools import islice

from torch import Tensor, nn
from torch._higher_order_ops.scan import scan_op
from torch.func import functional_call

__all__ = ["Step", "loop"]

# What is carried on to the next step, and what a step gives.
Step = tuple[list[Tensor], list[Tensor]]


def loop(
    graph: nn.Module,
    body: Callable[..., Step],
    carry: Sequence[Tensor],
    steps: Sequence[Tensor],
    fixed: Sequence[Tensor],
) -> Step:
    """Runs `body(carry, the step's part of steps, fixed)` for k = 0 to K - 1.

    The operator knows of nothing but its inputs, so whatever else a step reads is one of them: `fixed`, and the weights
    of `graph`. (torch's function `scan` would find these by itself, by compiling the body: seconds for each export.)

    Args:
        carry: the first step's; the body returns tensors of the same shapes, none of them one of its inputs.
        steps: each [K, ...]; a step gets its k-th row.

    Returns:
        The last step's carry, and what all steps gave, each [K, ...].
    """
    reads = _Body(graph, body)
    weights = dict(reads.named_parameters())

    def step(*values: Tensor) -> list[Tensor]:
        rest = iter(values)
        *parts, given = [list(islice(rest, len(group))) for group in (carry, steps, fixed, weights)]
        after, outputs = functional_call(reads, dict(zip(weights, given, strict=True)), tuple(parts))
        return [*after, *outputs]

    results = scan_op(step, list(carry), list(steps), (*fixed, *weights.values()))
    return list(results[: len(carry)]), list(results[len(carry) :])


class _Body(nn.Module):
    """A function that reads a module's weights, as a module whose weights can be given."""

    def __init__(self, graph: nn.Module, body: Callable[..., Step]) -> None:
        super().__init__()
        self.graph, self._body = graph, body

    def forward(self, *parts: Sequence[Tensor]) -> Step:
        return self._body(*parts)
