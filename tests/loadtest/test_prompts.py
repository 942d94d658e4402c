"""Without a prompt of the user's, a load test asks for what the model knows."""

import pytest

from bundle.vocabulary import ALL_BYTES, Unit, Vocabulary
from client.results import to_model
from loadtest.prompts import choose_prompts
from protos import charstream_pb2 as pb


@pytest.mark.parametrize(
    ("symbols", "unit"),
    [("a", "characters"), ("\n\0", "characters"), ("\n學而時習", "characters"), (ALL_BYTES, "bytes")],
)
def test_a_model_without_prompts_gets_characters_that_it_knows(symbols: str, unit: Unit) -> None:
    prompts = choose_prompts(to_model(pb.Model(vocabulary=symbols, unit=unit)))
    assert prompts
    for prompt in prompts:
        assert len(Vocabulary(symbols, unit).encode(prompt)) > 0
        assert "\0" not in prompt


def test_the_prompts_of_the_model_come_first() -> None:
    assert choose_prompts(to_model(pb.Model(vocabulary="ab", prompts=["ab", "ba"]))) == ("ab", "ba")
