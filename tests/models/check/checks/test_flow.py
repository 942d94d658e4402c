"""Gradients through time are what the recurrence makes of them, and stay below the bound that lectures give."""

import math

import pytest
import torch
from torch import nn

from models.check.checks.flow import flow
from models.network.char_lm import CharLM
from models.network.config import ModelConfig

IDS = torch.randint(5, (21, 3), generator=torch.Generator().manual_seed(0))


def _rnn(**options: str | int) -> CharLM:
    torch.manual_seed(0)
    return CharLM(ModelConfig(cell="rnn", vocab=5, hidden=8, embedding=4, **{"layers": 1, **options}))


def test_a_linear_recurrence_multiplies_gradients_by_its_weight_at_every_step() -> None:
    model = _rnn(activation="relu")
    layer = model.layers[0]
    with torch.no_grad():
        nn.init.eye_(layer.weight_hh).mul_(0.9)
        layer.weight_ih.abs_()
        model.embedding.weight.abs_()  # every unit stays above 0, where relu is the identity
    measured = flow(model, IDS)
    assert measured.shares == pytest.approx([0.9**lag for lag in range(20)])
    assert measured.bounds == pytest.approx(measured.shares)
    assert measured.factor == pytest.approx(0.9)
    assert measured.reach(0.5) == math.floor(math.log(0.5) / math.log(0.9))


@pytest.mark.parametrize("form", ["post", "pre"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "maxout", "rbf", "prelu"])
def test_no_gradient_of_the_top_layer_exceeds_the_bound(activation: str, form: str) -> None:
    model = _rnn(activation=activation, form=form, layers=2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.8)
    measured = flow(model, IDS)
    assert measured.is_within_bound
    assert measured.shares[0] == 1


def test_a_learned_slope_counts_in_the_bound() -> None:
    model = _rnn(activation="prelu")
    before = flow(model, IDS).factor_bound
    nn.init.constant_(model.layers[0].phi.weight, -3.0)
    assert before is not None
    assert flow(model, IDS).factor_bound == pytest.approx(3 * before)


def test_an_lstm_that_forgets_nothing_keeps_its_cell_s_gradient() -> None:
    torch.manual_seed(0)
    model = CharLM(ModelConfig(cell="lstm", vocab=5, layers=1, hidden=8, embedding=4))
    with torch.no_grad():
        model.layers[0].weight_hh.zero_()
        model.layers[0].bias_ih.chunk(4)[1].fill_(50.0)
    measured = flow(model, IDS)
    assert measured.factor_bound is None
    assert measured.bounds == []
    assert measured.shares_of_c == pytest.approx([1.0] * 20)


def test_a_normalised_recurrence_has_no_bound() -> None:
    """W of any size is divided by what it makes: gradients that exceed its norm were called a wrong backward pass."""
    model = CharLM(ModelConfig(vocab=7, cell="rnn", layers=2, hidden=16, embedding=8, recurrent_norm="layer"))
    assert flow(model, IDS).factor_bound is None
