"""Stop strings cut where a search after every character would, however the text is split."""

from hypothesis import given
from hypothesis import strategies as st

from server.engine.text_end import StopMatcher

ALPHABET = "ab"
PIECES = st.lists(st.text(ALPHABET, max_size=4), max_size=12)


def by_character(text: str, stops: list[str]) -> tuple[str, str]:
    """The definition: after each character, is a stop string complete? The longest one counts."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, ""


@given(PIECES, st.lists(st.text(ALPHABET, min_size=1, max_size=5), max_size=4))
def test_any_split_and_any_stop_strings(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    sent = ""
    for piece in pieces:
        sent += matcher.push(piece)
        if matcher.stop:
            break
    else:
        sent += matcher.flush()
    assert (sent, matcher.stop) == by_character("".join(pieces), stops)


@given(PIECES, st.lists(st.text(ALPHABET, min_size=1, max_size=6), min_size=1, max_size=4))
def test_only_what_could_begin_a_stop_string_is_held_back(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    text = sent = ""
    for piece in pieces:
        result = matcher.push(piece)
        if matcher.stop:
            return
        text, sent = text + piece, sent + result
        held = text[len(sent) :]
        assert text.startswith(sent)
        assert not held or any(stop.startswith(held) for stop in stops)


def cut(text: str, stops: list[str], known: int, include: bool) -> tuple[str, str, int]:
    """The definition, for a text whose first characters are sent: what is sent after them, the stop string, and how
    many of its characters had been sent."""
    for end in range(known + 1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            begin = end if include else end - len(longest)
            return text[known : max(known, begin)], longest, max(0, known - begin)
    return text[known:], "", 0


@given(
    PIECES,
    st.lists(st.text(ALPHABET, min_size=1, max_size=6), max_size=4),
    st.text(ALPHABET, max_size=9),
    st.booleans(),
)
def test_a_stop_string_may_begin_in_what_was_sent_before(
    pieces: list[str], stops: list[str], tail: str, include: bool
) -> None:
    matcher = StopMatcher(stops, include=include, tail=tail)
    sent = ""
    for piece in pieces:
        sent += matcher.push(piece)
        if matcher.stop:
            break
        assert not (include and matcher.held_chars), "what is part of the text in any case does not have to wait"
    else:
        sent += matcher.flush()
    assert (sent, matcher.stop, matcher.stop_chars_sent) == cut(tail + "".join(pieces), stops, len(tail), include)


@given(PIECES, st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=4), st.integers(0, 9), st.integers(0, 4))
def test_nothing_is_searched_in_the_first_characters(
    pieces: list[str], stops: list[str], skip: int, received: int
) -> None:
    """Whether they are generated or were received before; of those nothing is sent again."""
    matcher = StopMatcher(stops, skip=skip)
    text = "".join(pieces)
    known = len("".join(pieces[:received]))
    sent = ""
    for number, piece in enumerate(pieces):
        sent += matcher.push(piece, sent=number < received)
        if matcher.stop:
            break
    else:
        sent += matcher.flush()
    before, stop = by_character(text[skip:], stops)
    whole = text[:skip] + before
    assert matcher.stop == stop
    assert sent == whole[known:]
