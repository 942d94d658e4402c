"""The layers compute their equations; where torch has a kernel of its own, the plain loop gives the same results."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bundle.shape import BOUNDED
from models.network.activations import ACTIVATIONS
from models.network.config import ModelConfig
from models.network.layers import RecurrentLayer
from models.network.unrolled import unroll

# torch's layers, and the options by which ours is the same.
TORCHS: dict[str, tuple[Callable[..., nn.Module], dict[str, str]]] = {
    "lstm": (nn.LSTM, {"cell": "lstm"}),
    "gru": (nn.GRU, {"cell": "gru"}),
    "tanh": (nn.RNN, {"cell": "rnn"}),
    "relu": (lambda *sizes: nn.RNN(*sizes, nonlinearity="relu"), {"cell": "rnn", "activation": "relu"}),
}
INPUTS, HIDDEN, STEPS, ROWS = 5, 8, 20, 4
FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda a: (a.exp() - (-a).exp()) / (a.exp() + (-a).exp()),
    "sigmoid": lambda a: 1 / (1 + (-a).exp()),
    "relu": lambda a: a * (a > 0),
    "leaky_relu": lambda a: torch.where(a > 0, a, 0.01 * a),
    "prelu": lambda a: torch.where(a > 0, a, 0.25 * a),
    "elu": lambda a: torch.where(a > 0, a, a.exp() - 1),
    "softplus": lambda a: (1 + a.exp()).log(),
    "hardtanh": lambda a: torch.where(a > 1, 1.0, torch.where(a < -1, -1.0, a)),
    "maxout": lambda a: torch.stack([a[..., : a.shape[-1] // 2], a[..., a.shape[-1] // 2 :]]).amax(0),
    "rbf": lambda a: (-a * a).exp(),
}


def drawn(**options: str) -> RecurrentLayer:
    """A layer with random weights."""
    layer = RecurrentLayer(ModelConfig(vocab=3, hidden=HIDDEN, **options), INPUTS)
    torch.manual_seed(0)
    for parameter in (layer.weight_ih, layer.weight_hh, layer.bias_ih):
        nn.init.normal_(parameter, std=0.4)
    if isinstance(layer.bias_hh, nn.Parameter):
        nn.init.normal_(layer.bias_hh)
    return layer


def state_of(kinds: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(ROWS, HIDDEN).requires_grad_() for _ in range(kinds))


def results(layer: nn.Module, x: Tensor, state: tuple[Tensor, ...], run: Callable[..., tuple]) -> list[Tensor]:
    """Outputs, the state after, and the gradients of inputs, state and parameters."""
    wanted = [x, *state, *layer.parameters()]
    outputs, after = run(x, state)
    loss = outputs.square().mean() + sum(tensor.sin().sum() for tensor in after)
    return [outputs, *after, *torch.autograd.grad(loss, wanted)]


def looped(layer: RecurrentLayer, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    steps = unroll(layer, x, state)
    return torch.stack([step.output for step in steps]), steps[-1].state


@pytest.mark.parametrize("name", TORCHS)
def test_the_fused_kernels_and_the_plain_loop_have_the_same_results_and_gradients(name: str) -> None:
    layer = drawn(**TORCHS[name][1])
    assert layer.fused
    x, state = torch.randn(STEPS, ROWS, INPUTS, requires_grad=True), state_of(2 if name == "lstm" else 1)
    fused = results(layer, x, state, layer)
    plain = results(layer, x, state, lambda x, state: looped(layer, x, state))
    torch.testing.assert_close(plain, fused, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TORCHS)
def test_a_layer_is_torchs_own_with_the_same_weights(name: str) -> None:
    make, options = TORCHS[name]
    layer, own = drawn(**options), make(INPUTS, HIDDEN)
    own.load_state_dict({f"{key}_l0": getattr(layer, key) for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")})
    x, state = torch.randn(STEPS, ROWS, INPUTS), state_of(2 if name == "lstm" else 1)
    outputs, after = layer(x, state)
    expected, last = own(x, tuple(s[None] for s in state) if name == "lstm" else state[0][None])
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(torch.stack(after), torch.cat(last) if name == "lstm" else last)


def test_a_gru_whose_recurrence_is_normalised_trains_and_reads_as_the_plain_loop() -> None:
    """Each gate's W h' has mean 0 and variance 1 over its units, times a gain; the biases are added after it."""
    layer = drawn(cell="gru", recurrent_norm="layer")
    assert layer.gain is not None
    nn.init.normal_(layer.gain)
    x, state = torch.randn(STEPS, ROWS, INPUTS, requires_grad=True), state_of(1)
    expected = results(layer, x, state, lambda x, state: looped(layer, x, state))
    torch.testing.assert_close(results(layer, x, state, layer), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, state)[0], expected[0], rtol=1e-4, atol=1e-5)
        product = (state[0] @ layer.weight_hh.T).view(ROWS, 3, HIDDEN)
        product -= product.mean(2, keepdim=True)
        product /= (product.square().mean(2, keepdim=True) + 1e-5).sqrt()
        r, z, n = (product.flatten(1) * layer.gain + layer.bias_hh).chunk(3, 1)
        x_r, x_z, x_n = (x[0] @ layer.weight_ih.T + layer.bias_ih).chunk(3, 1)
        candidate, keep = torch.tanh(x_n + torch.sigmoid(x_r + r) * n), torch.sigmoid(x_z + z)
        torch.testing.assert_close(expected[0][0], (1 - keep) * candidate + keep * state[0], rtol=1e-4, atol=1e-5)


def test_a_gru_trains_in_bfloat16_as_in_float32_within_its_digits_and_keeps_its_state_in_float32() -> None:
    layer = drawn(cell="gru")
    x, state = torch.randn(STEPS, ROWS, INPUTS, requires_grad=True), state_of(1)
    exact = results(layer, x, state, layer)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = results(layer, x, state, layer)
    assert {tensor.dtype for tensor in rounded} == {torch.float32}
    for found, expected in zip(rounded, exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.03 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_step_of_the_form_post_is_its_equation(name: str) -> None:
    layer = drawn(cell="rnn", activation=name)
    x, h = torch.randn(1, ROWS, INPUTS), torch.randn(ROWS, HIDDEN)
    expected = FORMULAS[name](x[0] @ layer.weight_ih.T + h @ layer.weight_hh.T + layer.bias_ih)
    outputs, (after,) = layer(x, (h,))
    torch.testing.assert_close(outputs[0], expected)
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_step_of_the_form_pre_is_its_equation(name: str) -> None:
    """The state is what lies before the nonlinearity; what is handed up lies after it."""
    layer = drawn(cell="rnn", activation=name, form="pre")
    x, h = torch.randn(1, ROWS, INPUTS), torch.randn(ROWS, HIDDEN)
    expected = FORMULAS[name](h) @ layer.weight_hh.T + x[0] @ layer.weight_ih.T + layer.bias_ih
    outputs, (after,) = layer(x, (h,))
    torch.testing.assert_close(after, expected)
    torch.testing.assert_close(outputs[0], FORMULAS[name](expected))
    assert outputs.shape[2] == (HIDDEN // 2 if name == "maxout" else HIDDEN)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_slope_is_larger_than_the_one_that_is_known(name: str) -> None:
    """Bounds on gradients through time, and 8 bits, rest on these two figures."""
    phi = ACTIVATIONS[name]
    a = torch.linspace(-9, 9, 36_001, dtype=torch.float64).requires_grad_()
    module = phi.make().double()
    values = module(torch.stack([a, -a], 1) if name == "maxout" else a)
    slopes = torch.autograd.grad(values.sum(), a)[0].abs()
    assert slopes.max() <= phi.slope + 1e-9
    assert name == "maxout" or slopes.max() > 0.999 * phi.slope
    assert (name in BOUNDED) == bool(module(a.new_full((4,), 1e4)).abs().max() <= 1 and values.abs().max() <= 1)


def test_a_bias_counts_once() -> None:
    """torch's second vector would double a bias's step in every update."""
    for cell in ("rnn", "lstm"):
        assert [name for name, _ in drawn(cell=cell).named_parameters()] == ["weight_ih", "weight_hh", "bias_ih"]
    assert "bias_hh" in dict(drawn(cell="gru").named_parameters())
