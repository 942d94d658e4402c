"""A text ends at the first character that completes a repetition, however it is split and searched."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.messages import Reason, Repeat, StopRule
from server.engine.text_end import RepeatFinder, TextEnd
from tests.server.engine.test_stop_strings import by_character

REPEATS = st.builds(
    lambda least, more, times: Repeat(least + more, times, least),
    st.integers(1, 4),
    st.integers(0, 20),
    st.integers(2, 5),
)


def end_by_definition(text: str, repeat: Repeat, known: int = 0) -> tuple[int, int]:
    """After how many characters beyond the known ones a repetition is complete, and its shortest period; or (-1, 0)."""
    for end in range(known + 1, len(text) + 1):
        for period in range(repeat.min_period, repeat.max_period + 1):
            begin = end - period * repeat.times
            if begin >= 0 and text[begin:end] == text[begin : begin + period] * repeat.times:
                return end - known, period
    return -1, 0


def read(finder: RepeatFinder, pieces: list[str]) -> tuple[int, int]:
    done = 0
    for piece in pieces:
        done += finder.push(piece)
        if finder.period:
            return done, finder.period
    return -1, 0


@st.composite
def repetitive(draw: st.DrawFn) -> list[str]:
    """Pieces of a text with blocks that come several times, and other characters between."""
    block = st.text("abc", min_size=1, max_size=24)
    parts = draw(st.lists(st.tuples(block, st.integers(1, 6)), max_size=5))
    text = "".join(part * times for part, times in parts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(repetitive(), REPEATS, st.text("abc", max_size=30))
def test_any_split_ends_where_the_definition_says(pieces: list[str], repeat: Repeat, tail: str) -> None:
    """The tail of an earlier call counts as far back as a repetition may have begun, and ends nothing by itself."""
    expected = end_by_definition(tail + "".join(pieces), repeat, len(tail))
    assert read(RepeatFinder(repeat, tail=tail), pieces) == expected
    assert read(RepeatFinder(repeat, tail=tail[-(repeat.longest - 1) :]), pieces) == expected


@given(repetitive(), REPEATS, st.integers(1, 40))
def test_the_first_characters_may_be_passed_over(pieces: list[str], repeat: Repeat, skip: int) -> None:
    end, period = end_by_definition("".join(pieces)[skip:], repeat)
    found = read(RepeatFinder(repeat, skip=skip, tail="abc" * 20), pieces)
    assert found == ((skip + end, period) if period else (-1, 0))


@pytest.mark.parametrize(("period", "times"), [(1, 4096), (7, 500), (40, 4), (511, 8), (1024, 4), (2048, 2)])
def test_long_blocks_are_found_at_their_last_character(period: int, times: int) -> None:
    """Other blocks come before, some of the same characters, and one that is broken by its last character."""
    drawn = random.Random(period)
    block = "".join(drawn.choices("ab", k=period - 1)) + "c"
    text = "xy" + block * (times - 1) + block[:-1] + "z" + block * times
    repeat = Repeat(period, times, min_period=period)
    pieces = [text[at : at + 50] for at in range(0, len(text), 50)]
    assert read(RepeatFinder(repeat), [*pieces, block]) == (len(text), period)
    assert read(RepeatFinder(repeat), [*pieces[:-1], pieces[-1][:-1]]) == (-1, 0)


@given(repetitive(), REPEATS, st.lists(st.text("abc", min_size=1, max_size=6), max_size=3), st.integers(0, 9))
def test_the_earlier_end_counts_and_of_two_the_stop_string(
    pieces: list[str], repeat: Repeat, stops: list[str], skip: int
) -> None:
    text = "".join(pieces)
    end = TextEnd(StopRule(tuple(stops), skip=skip, repeat=repeat))
    sent = "".join(map(end.push, pieces))
    sent += end.flush()
    rest = text[skip:]
    repeated, period = end_by_definition(rest, repeat)
    before, stop = by_character(rest[:repeated] if period else rest, stops)
    assert sent == text[:skip] + before
    assert (end.stop, end.repeat_period) == (stop, 0 if stop else period)
    assert end.reason is (Reason.STOP if stop else Reason.REPEAT if period else None)
