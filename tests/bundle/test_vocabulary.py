"""Characters and numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.vocabulary import UnknownCharacter, Vocabulary


@given(st.text(min_size=1))
def test_round_trip(text: str) -> None:
    vocabulary = Vocabulary.of(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_numbers_follow_the_order_given() -> None:
    vocabulary = Vocabulary("hel\U0001f600o")
    assert vocabulary.encode("hello\U0001f600").tolist() == [0, 1, 2, 2, 4, 3]
    assert vocabulary.decode(np.array([[0, 1], [3, 4]])) == "he\U0001f600o"


@pytest.mark.parametrize("text", ["hex", "he\U0010ffff", "he\x00"])
def test_unknown_character_is_named_with_its_place(text: str) -> None:
    with pytest.raises(UnknownCharacter, match=r"U\+[0-9A-F]{4,6}\) at place 2") as caught:
        Vocabulary("hel").encode(text)
    assert caught.value.character == text[2]


@pytest.mark.parametrize("symbols", ["", "abca"])
def test_a_vocabulary_needs_distinct_characters(symbols: str) -> None:
    with pytest.raises(ValueError, match="distinct"):
        Vocabulary(symbols)
