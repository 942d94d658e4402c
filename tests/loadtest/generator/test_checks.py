"""Whether a text that differs is found, whichever way it was asked for."""

import random

import pytest

from loadtest.generator.checks import Checks, compare_texts
from loadtest.scenarios.calls import Call

PLAIN = Call("text", "abc", 1, 20)


def checks(share: float = 1.0, alone: bool = False) -> Checks:
    return Checks(share, random.Random(0), [(PLAIN, {0: "the same text"})] if alone else [])


def test_every_new_call_is_made_again_and_its_text_compared() -> None:
    found, made = checks(), 0

    def fresh() -> Call:
        nonlocal made
        made += 1
        return Call("text", "abc", made, 20)

    for _ in range(2000):
        call = found.choose(fresh)
        assert found.note(call, {0: f"text {call.seed}"}, is_whole=True) is None
    assert found.counts["checked"] == pytest.approx(1000, rel=0.1)


def test_with_a_share_of_none_no_call_is_made_again() -> None:
    found = checks(share=0.0)
    assert all(found.choose(lambda: PLAIN) is PLAIN for _ in range(100))


def test_a_text_that_differs_is_told_with_both_texts() -> None:
    found = checks(alone=True)
    difference = found.note(PLAIN, {0: "the sane text"}, is_whole=True)
    assert "from character 6 on: recorded alone 'the same text', now 'the sane text'" in str(difference)
    assert found.counts == {"checked": 1, "alone": 1, "differing": 1}
    assert found.note(PLAIN, {0: "the same text"}, is_whole=True) is None  # it stays remembered


def test_one_of_several_texts_is_compared_with_the_one_that_was_asked_for_alone() -> None:
    found = checks()
    three = Call("three", "abc", 2, 20, "continuations", n=3)
    found.note(three, {0: "first", 1: "second", 2: "third"}, is_whole=True)
    assert found.note(three.plain(1), {1: "second"}, is_whole=True) is None
    found.note(three, {0: "first", 1: "second", 2: "third"}, is_whole=True)
    assert found.note(three.plain(2), {2: "second"}, is_whole=True) is not None


@pytest.mark.parametrize(
    ("first", "second", "whole", "same"),
    [
        ("abc", "abc", (True, True), True),
        ("abc", "ab", (True, True), False),
        ("abc", "ab", (True, False), True),
        ("ab", "abc", (True, False), False),
        ("ab", "abc", (False, True), True),
        ("ab", "abc", (False, False), True),
        ("abc", "ab", (False, False), True),
        ("abc", "ax", (False, False), False),
    ],
)
def test_what_is_not_whole_has_to_be_the_beginning(
    first: str, second: str, whole: tuple[bool, bool], same: bool
) -> None:
    assert compare_texts(first, second, whole) is same
