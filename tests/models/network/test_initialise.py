"""First weights have the distribution that their rule names."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from models.network.char_lm import CharLM, ModelConfig
from models.network.config import Init
from models.network.initialise import initialise

H, E, V = 256, 128, 96
# The variance that each rule gives to a matrix with n_in and n_out.
VARIANCES = {
    "torch": lambda n_in, n_out: 1 / H / 3,
    "xavier_uniform": lambda n_in, n_out: 2 / (n_in + n_out),
    "xavier_normal": lambda n_in, n_out: 2 / (n_in + n_out),
    "lecun_normal": lambda n_in, n_out: 1 / n_in,
    "he": lambda n_in, n_out: 2 / n_in,
    "normal": lambda n_in, n_out: 0.02**2,
    "uniform": lambda n_in, n_out: 0.02**2 / 3,
    "zeros": lambda n_in, n_out: 0.0,
}


def drawn(init: Init, **options: object) -> CharLM:
    torch.manual_seed(0)
    model = CharLM(ModelConfig.model_validate({"vocab": V, "hidden": H, "embedding": E, **options}))
    initialise(model, init, scale=0.02, forget_bias=1.5)
    return model


def matrices(model: CharLM) -> list[Tensor]:
    gates = [m for layer in model.layers for w in (layer.weight_ih, layer.weight_hh) for m in w.chunk(4)]
    return [*gates, model.head.weight]


@pytest.mark.parametrize("init", VARIANCES)
def test_every_gates_matrix_has_the_variance_of_its_rule(init: Init) -> None:
    for matrix in matrices(drawn(init)):
        n_out, n_in = matrix.shape
        assert matrix.var().item() == pytest.approx(VARIANCES[init](n_in, n_out), rel=0.05)
        bound = math.sqrt(3 * VARIANCES[init](n_in, n_out))
        if init in ("torch", "uniform", "xavier_uniform"):
            assert matrix.abs().max() <= bound * (1 + 1e-6)
        elif init != "zeros":
            assert matrix.abs().max() > 1.2 * bound, "not normal"


def test_orthogonal_matrices_keep_lengths() -> None:
    for matrix in drawn("orthogonal").layers[0].weight_hh.chunk(4):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(H), rtol=0, atol=1e-5)


@pytest.mark.parametrize("init", get_args(Init))
def test_only_forget_gates_begin_with_a_bias(init: Init) -> None:
    model = drawn(init)
    for layer in model.layers:
        i, f, g, o = layer.bias_ih.chunk(4)
        assert f.eq(1.5).all()
        assert not any(bias.any() for bias in (i, g, o, layer.bias_hh))
    assert not model.head.bias.any()


def test_with_zeros_all_units_stay_alike() -> None:
    """What the rule exists to show: no gradient tells them apart."""
    model = drawn("zeros", cell="rnn", hidden=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    ids = torch.randint(V, (10, 4))
    for _ in range(3):
        logits, _ = model(ids, model.initial_state(4))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
        optimizer.step()
    assert model.head.bias.any()
    assert not any(matrix.any() for matrix in matrices(model))


def test_an_embedding_gives_inputs_of_variance_1_but_where_all_weights_are_to_be_small() -> None:
    assert drawn("he").embedding.weight.std().item() == pytest.approx(1, rel=0.05)
    assert drawn("normal").embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
