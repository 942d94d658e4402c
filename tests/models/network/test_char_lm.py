"""Every cell is a function of characters and state, whichever way a text is cut."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from models.network.char_lm import CharLM, ModelConfig
from models.network.layers import dropout


@pytest.fixture
def model(cell: dict[str, str]) -> CharLM:
    torch.manual_seed(0)
    return CharLM(ModelConfig(**cell, vocab=11, layers=2, hidden=16, embedding=8)).eval()


@torch.inference_mode()
def test_a_text_read_in_pieces_is_the_text_read_at_once(model: CharLM) -> None:
    ids = torch.randint(11, (50, 3))
    state = tuple(torch.rand_like(tensor) for tensor in model.initial_state(3))
    logits, after = model(ids, state)
    pieces = []
    for piece in ids.split([1, 20, 2, 27]):
        piece_logits, state = model(piece, state)
        pieces.append(piece_logits)
    torch.testing.assert_close(torch.cat(pieces), logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(state, after, rtol=0, atol=1e-6)


def test_the_state_is_what_a_bundle_says_it_is(model: CharLM) -> None:
    shape = model.config.shape
    _, after = model(torch.zeros(4, 3, dtype=torch.int64), model.initial_state(3))
    assert model.state_names == shape.state_names
    assert [tensor.shape for tensor in after] == [(3, 16)] * len(shape.state_names)


@torch.inference_mode()
def test_a_hidden_state_has_the_bounds_of_its_activation(model: CharLM) -> None:
    _, after = model(torch.randint(11, (50, 3)), model.initial_state(3))
    hidden = torch.stack([tensor for name, tensor in zip(model.state_names, after, strict=True) if name[0] == "h"])
    assert hidden.abs().max() <= 1
    assert (hidden.min() > 0) == (model.config.activation == "sigmoid")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates_have_no_choice_of_activation(cell: str) -> None:
    with pytest.raises(ValidationError, match=f"only the cell rnn has a choice of activation: sigmoid with {cell}"):
        ModelConfig(cell=cell, activation="sigmoid", vocab=11)


def test_a_maxout_state_cannot_be_halved_if_it_is_odd() -> None:
    with pytest.raises(ValidationError, match="pools pairs of hidden units: 7 is odd"):
        ModelConfig(cell="rnn", activation="maxout", form="pre", hidden=7, vocab=11)


SOME = {
    "lstm": {"cell": "lstm", "norm": "layer", "residual": True},
    "gru": {"cell": "gru", "norm": "batch", "input": "onehot"},
    "rnn": {"cell": "rnn", "activation": "maxout", "form": "pre", "residual": True},
}


@pytest.mark.parametrize("name", SOME)
def test_what_is_unrolled_is_what_is_computed_and_gradients_reach_every_step(name: str) -> None:
    torch.manual_seed(0)
    model = CharLM(ModelConfig(**SOME[name], vocab=11, layers=3, hidden=16, embedding=8, dropout=0.5)).train()
    ids, state = torch.randint(11, (7, 3)), model.initial_state(3)
    unrolled = model.unroll(ids, state)
    assert model.training
    logits, after = model.eval()(ids, state)
    torch.testing.assert_close(unrolled.logits, logits)
    torch.testing.assert_close(tuple(t for layer in unrolled.layers for t in layer.state[-1]), after)
    assert unrolled.layers[0].sums[6].shape == (3, model.config.gates * 16)
    steps = [t for layer in unrolled.layers for t in (*layer.outputs, *(s[0] for s in layer.state))]
    assert len(steps) == 3 * 2 * 7
    gradients = torch.autograd.grad(unrolled.logits.square().sum(), steps)
    assert all(gradient.any() for gradient in gradients)


def test_a_layer_adds_to_what_it_reads_from_the_second_on() -> None:
    torch.manual_seed(0)
    model = CharLM(ModelConfig(residual=True, vocab=11, layers=3, hidden=16, embedding=8)).eval()
    unrolled = model.unroll(torch.randint(11, (5, 2)), model.initial_state(2))
    read = sum(torch.stack(layer.outputs) for layer in unrolled.layers)
    torch.testing.assert_close(model.head(read), unrolled.logits)


def test_a_batch_normalisation_looks_at_all_steps_and_streams() -> None:
    torch.manual_seed(0)
    model = CharLM(ModelConfig(norm="batch", vocab=11, layers=1, hidden=16, embedding=8)).train()
    seen = []
    model.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.randint(11, (50, 20)), model.initial_state(20))
    torch.testing.assert_close(seen[0].mean((0, 1)), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[0].var((0, 1)), torch.ones(16), rtol=0, atol=2e-2)


@pytest.mark.parametrize("locked", [False, True])
def test_a_locked_mask_stays_the_same_along_a_window(locked: bool) -> None:
    torch.manual_seed(0)
    module = dropout(0.25, locked).train()
    kept = module(torch.ones(40, 30, 50)) != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert bool((kept == kept[0]).all()) == locked
    torch.testing.assert_close(module(torch.ones(400, 300, 5)).mean(), torch.tensor(1.0), rtol=0, atol=0.03)
    assert module.eval()(torch.ones(4, 3, 5)).eq(1).all()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_dropped_recurrent_weights_stay_the_same_along_a_window(cell: str) -> None:
    model = CharLM(ModelConfig.model_validate({"cell": cell, "weight_drop": 0.25, "vocab": 11, "hidden": 16})).train()
    ids, state, layer = torch.randint(11, (6, 3)), model.initial_state(3), model.layers[0]
    torch.manual_seed(0)
    logits, _ = model(ids, state)
    logits.sum().backward()
    torch.manual_seed(0)
    kept = [nn.functional.dropout(layer.weight_hh.detach(), 0.25) for layer in model.layers]
    assert (kept[0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert layer.weight_hh.grad is not None
    assert layer.weight_hh.grad[kept[0] == 0].eq(0).all()
    for own, weights in zip(model.layers, kept, strict=True):
        nn.init.zeros_(own.weight_hh).data.add_(weights)
    torch.testing.assert_close(model.eval()(ids, state)[0], logits)


@torch.inference_mode()
def test_each_dropout_stands_where_it_says() -> None:
    """Seen by what stays the same when the others are off."""
    torch.manual_seed(0)
    sizes = {"vocab": 11, "layers": 2, "hidden": 16, "embedding": 8}
    ids = torch.randint(11, (6, 3))
    changed = {}
    for place in ("dropout_input", "dropout", "dropout_output"):
        model = CharLM(ModelConfig.model_validate({**sizes, place: 0.5})).train()
        (logits, after), (other, after_other) = (model(ids, model.initial_state(3)) for _ in range(2))
        same = [bool(torch.equal(a, b)) for a, b in zip(after, after_other, strict=True)]
        changed[place] = [*same, bool(torch.equal(logits, other))]
    # h0, c0, h1, c1, logits
    assert changed == {
        "dropout_input": [False] * 5,
        "dropout": [True, True, False, False, False],
        "dropout_output": [True, True, True, True, False],
    }
