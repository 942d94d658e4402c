"""A text depends on prompt, seed and positions, not on how it came to be."""

import pytest
import torch

from bundle.vocabulary import UnknownCharacter
from models.network.char_lm import CharLM, ModelConfig
from models.network.generate import generate
from models.training.checkpoint import Trained


def _write(tiny: Trained, prompt: str, chars: int, **sampling: float) -> str:
    return generate(tiny.model, tiny.vocabulary, tiny.start_text, prompt, chars, **sampling)


def test_a_text_goes_on_from_any_place_as_if_it_had_not_stopped(tiny: Trained) -> None:
    whole = _write(tiny, "To be", 40, seed=7)
    assert whole == whole[:13] + _write(tiny, "To be" + whole[:13], 27, seed=7)


def test_every_cell_carries_on_what_it_has_read(tiny: Trained, cell: dict[str, str]) -> None:
    torch.manual_seed(0)
    model = CharLM(ModelConfig(**cell, vocab=len(tiny.vocabulary), layers=2, hidden=16, embedding=8)).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)

    def write(prompt: str, chars: int) -> str:
        return generate(model, tiny.vocabulary, tiny.start_text, prompt, chars, seed=7)

    whole = write("To be", 30)
    assert whole == whole[:13] + write("To be" + whole[:13], 17)
    assert write("me", 30) != write("be", 30)  # the last character is the same: only the state knows the first


def test_the_seed_decides(tiny: Trained) -> None:
    assert _write(tiny, "", 40, seed=1) == _write(tiny, "", 40, seed=1) != _write(tiny, "", 40, seed=2)


def test_temperature_zero_takes_the_most_probable(tiny: Trained) -> None:
    assert _write(tiny, "a", 20, temperature=0.0, seed=1) == _write(tiny, "a", 20, temperature=0.0, seed=2)
    assert _write(tiny, "a", 20, temperature=0.0) == _write(tiny, "a", 20, temperature=1e-4)


def test_nothing_asked_nothing_written(tiny: Trained) -> None:
    assert _write(tiny, "a", 0) == ""


def test_an_unknown_character_is_named(tiny: Trained) -> None:
    with pytest.raises(UnknownCharacter, match="U\\+00E9"):
        _write(tiny, "café", 3)
