"""Every cell is a function of characters and state, whichever way a text is cut."""

import pytest
import torch
from pydantic import ValidationError

from bundle.manifest import ModelShape
from models.model import CharLM, ModelConfig


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
    config = model.config
    shape = ModelShape(cell=config.cell, activation=config.activation, layers=config.layers, hidden=config.hidden)
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
