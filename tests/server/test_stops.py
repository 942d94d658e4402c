"""Stop strings cut where a search after every character would, however the text is split."""

from hypothesis import given
from hypothesis import strategies as st

from server.stops import StopMatcher

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
    sent, found = "", ""
    for piece in pieces:
        result = matcher.push(piece)
        sent, found = sent + result.text, result.stop
        if found:
            break
    else:
        sent += matcher.flush()
    assert (sent, found) == by_character("".join(pieces), stops)


@given(PIECES, st.lists(st.text(ALPHABET, min_size=1, max_size=6), min_size=1, max_size=4))
def test_only_what_could_begin_a_stop_string_is_held_back(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    text = sent = ""
    for piece in pieces:
        result = matcher.push(piece)
        if result.stop:
            return
        text, sent = text + piece, sent + result.text
        held = text[len(sent) :]
        assert text.startswith(sent)
        assert not held or any(stop.startswith(held) for stop in stops)
