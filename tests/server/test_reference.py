"""The comparison with the reference can fail, and a prompt goes on exactly where a generated text was."""

import pytest

from models.training.checkpoint import Trained
from protos import charstream_pb2 as pb
from tests.server.reference import assert_is_reference, distance_to_edge, reference

REQUEST = pb.GenerateRequest(prompt="ab", max_chars=60, seed=3)


def test_generated_characters_and_forced_ones_have_the_same_positions(tiny: Trained) -> None:
    whole = reference(tiny, REQUEST)
    rest = pb.GenerateRequest(prompt="ab" + whole[:25], max_chars=35, seed=3)
    assert reference(tiny, rest) == whole[25:]


def test_every_character_of_the_reference_is_where_its_number_says(tiny: Trained) -> None:
    whole = reference(tiny, REQUEST)
    assert max(distance_to_edge(tiny, REQUEST, whole[:end]) for end in range(1, 61)) < 1e-6


@pytest.mark.parametrize("place", [0, 20, 59])
def test_a_wrong_character_is_no_edge(tiny: Trained, place: int) -> None:
    whole = reference(tiny, REQUEST)
    wrong = "A" if whole[place] != "A" else "B"
    with pytest.raises(AssertionError):
        assert_is_reference(tiny, REQUEST, whole[:place] + wrong + whole[place + 1 :])


def test_a_missing_character_is_noticed(tiny: Trained) -> None:
    with pytest.raises(AssertionError):
        assert_is_reference(tiny, REQUEST, reference(tiny, REQUEST)[:-1])
