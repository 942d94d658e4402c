"""K steps as torch's scan operator, which the exporter turns into ONNX's Scan."""

from collections.abc import Callable, Sequence
from itertools import islice

from torch import Tensor, nn
from torch._higher_order_ops.scan import scan_op
from torch.func import functional_call

__all__ = ["Step", "loop"]

# The tensors carried to the next step, and the step's outputs.
Step = tuple[list[Tensor], list[Tensor]]


def loop(
    graph: nn.Module,
    body: Callable[..., Step],
    carry: Sequence[Tensor],
    steps: Sequence[Tensor],
    fixed: Sequence[Tensor],
) -> Step:
    """Run `body(carry, [tensor[k] for tensor in steps], fixed)` for k = 0 to K - 1.

    The operator sees only its inputs, so everything else that a step reads is one of them: `fixed`, and the weights of
    `graph`. (torch's function `scan` would find these by compiling the body, which takes seconds for each export.)

    Args:
        carry: of the first step. The body returns tensors of the same shapes, none of which may be one of its inputs.
        steps: each [K, ...].

    Returns:
        The last step's carry, and the outputs of all steps, each [K, ...].
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
    """A function that reads a module's weights, as a module whose weights can be replaced in a call."""

    def __init__(self, graph: nn.Module, body: Callable[..., Step]) -> None:
        super().__init__()
        self.graph, self._body = graph, body

    def forward(self, *parts: Sequence[Tensor]) -> Step:
        return self._body(*parts)
