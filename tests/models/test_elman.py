"""Our own recurrent layers are torch's, but for the activation."""

import pytest
import torch
from torch import Tensor, nn

from models.elman import ElmanRNN


def _seeded(kind: type[nn.Module], **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return kind(5, 8, 3, dropout=0.4, **arguments)


@pytest.fixture
def ours() -> nn.Module:
    return _seeded(ElmanRNN, phi=torch.tanh)


@pytest.fixture
def torchs() -> nn.Module:
    return _seeded(nn.RNN)


def test_the_same_seed_gives_the_weights_that_torch_begins_with(ours: nn.Module, torchs: nn.Module) -> None:
    assert list(ours.state_dict()) == list(torchs.state_dict())
    assert all(map(torch.equal, ours.parameters(), torchs.parameters()))


@pytest.mark.parametrize("training", [False, True])
def test_with_tanh_it_is_torchs(ours: nn.Module, torchs: nn.Module, training: bool) -> None:
    x, state = torch.randn(20, 4, 5), torch.rand(3, 4, 8) - 0.5

    def results(layers: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)  # dropout takes the same numbers
        outputs, after = layers.train(training)(x, state)
        (outputs.square().mean() + after.sum()).backward()
        return [outputs, after, *(parameter.grad for parameter in layers.parameters())]

    torch.testing.assert_close(results(ours), results(torchs), rtol=1e-5, atol=1e-6)


def test_a_step_is_the_equation() -> None:
    layer = ElmanRNN(5, 8, 1, phi=torch.sigmoid)
    x, h = torch.randn(1, 2, 5), torch.rand(1, 2, 8)
    w_ih, w_hh, b_ih, b_hh = layer.parameters()
    expected = 1 / (1 + torch.exp(-(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh)))
    outputs, after = layer(x, h)
    torch.testing.assert_close(outputs, expected)
    assert torch.equal(outputs, after)
