"""A run keeps prompts of its text, from where they come into its bundle."""

from collections.abc import Callable
from pathlib import Path

import pytest

from models.training.checkpoint import load


@pytest.mark.parametrize("split", ["0.9,0.1", "1"])
def test_a_run_keeps_prompts_of_the_text_that_is_held_out_if_one_is(
    train: Callable[..., Path], verse: Path, split: str
) -> None:
    text = verse.read_text()
    held_out = text[int(len(text) * 0.9) :] if split != "1" else text
    prompts = load(train("--steps", "2", "--split", split)).record.prompts
    assert len(prompts) == 3
    assert all(f"\n{prompt}" in held_out for prompt in prompts)
