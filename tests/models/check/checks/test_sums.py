"""The spread of sums, and saturated and dead units, of weights for which they are known."""

import torch
from torch import nn

from models.check.checks.sums import gate_sums, spread_by_layer
from models.network.char_lm import CharLM
from models.network.config import ModelConfig
from models.network.initialise import initialise

IDS = torch.randint(20, (12, 8), generator=torch.Generator().manual_seed(0))


def _model(**options: str | int) -> CharLM:
    torch.manual_seed(0)
    return CharLM(ModelConfig(**{"cell": "rnn", "vocab": 20, "layers": 1, "hidden": 200, "embedding": 100, **options}))


def test_weights_of_variance_one_over_n_keep_the_variance_of_what_is_summed() -> None:
    model = _model()
    initialise(model, "lecun_normal")
    nn.init.zeros_(model.layers[0].weight_hh)
    (sums,) = gate_sums(model, IDS)
    assert abs(sums.mean) < 0.05
    assert 0.8 < sums.variance < 1.2
    assert 0.9 < sums.across < 1.1


def test_large_weights_saturate_and_bounded_units_say_so() -> None:
    model = _model()
    initialise(model, "normal", scale=10.0)
    (sums,) = gate_sums(model, IDS)
    assert sums.flat > 0.9
    assert sums.saturates


def test_units_that_never_leave_zero_are_dead() -> None:
    model = _model(activation="relu")
    with torch.no_grad():
        model.layers[0].bias_ih[:50] = -1000.0
        model.layers[0].bias_ih[50:] = 1000.0
        model.layers[0].weight_hh.zero_()
    (sums,) = gate_sums(model, IDS)
    assert sums.dead == sums.flat == 0.25
    assert not sums.saturates


def test_zeros_make_all_units_alike() -> None:
    model = _model(cell="gru")
    initialise(model, "zeros")
    assert [sums.name for sums in gate_sums(model, IDS)] == ["layer 1 r", "layer 1 z", "layer 1 n"]
    assert all(sums.across == 0 for sums in gate_sums(model, IDS))


def test_small_weights_fade_from_layer_to_layer_and_xavier_s_do_not() -> None:
    model = _model(layers=6)
    initialise(model, "normal", scale=0.01)
    small = spread_by_layer(model, IDS)
    initialise(model, "xavier_normal")
    kept = spread_by_layer(model, IDS)
    assert small[-1] < 1e-3 * small[0]
    assert kept[-1] > 0.5 * kept[0]
