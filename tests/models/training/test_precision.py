"""An arithmetic is in force within a step and nowhere else, and cuDNN gets its numbers as it wants them."""

import pytest
import torch

from models.network.layers import pack_for_cudnn
from models.training.precision import Arithmetic, allow_tf32


def _tf32() -> tuple[bool, bool]:
    # As torch.export does: it fails where both of torch's ways were used.
    with torch.backends.cudnn.flags(enabled=True):
        pass
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_tf32_and_threads_are_in_force_within_only() -> None:
    allow_tf32(False)
    with Arithmetic(False, 2, tf32=True).in_force():
        assert (_tf32(), torch.get_num_threads()) == ((True, True), 2)
    assert (_tf32(), torch.get_num_threads()) == ((False, False), 1)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_layers_weights_lie_one_behind_the_other_and_gradients_reach_them(kind: torch.dtype) -> None:
    weights = [torch.randn(size, requires_grad=True) for size in ((8, 3), (8, 2), (8,), (8,))]
    x, state = torch.randn(5, 4, 3), [torch.randn(1, 4, 2)] * 2
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
        given, before, together = pack_for_cudnn(x, state, weights)
    assert {tensor.dtype for tensor in (given, *before, *together)} == {kind}
    place = together[0].data_ptr()
    for tensor, weight in zip(together, weights, strict=True):
        assert tensor.data_ptr() == place
        assert tensor.equal(weight.to(kind))
        place += tensor.nbytes
    torch.stack([(number * tensor).sum() for number, tensor in enumerate(together, 1)]).sum().backward()
    assert [weight.grad.unique().tolist() for weight in weights if weight.grad is not None] == [[1], [2], [3], [4]]
