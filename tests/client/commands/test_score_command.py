"""`charstream score`: the client's own figures as a table, in colours, as JSON; what can't be scored is refused."""

import dataclasses
import json
import math
import re
import sys
from pathlib import Path

import pytest

from client import Client, ScoreSummary
from client.commands.surprise import legend, paint
from tests.client.scripted import dead_address
from tests.conftest import Charstream, ServerProcess

TEXT = "To be, or not to be,\nthat is the question.\n"
LONG = 20_001  # more than anybody looks at


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hamlet.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def summary(server: ServerProcess) -> ScoreSummary:
    with Client(server.address) as client:
        return client.score(TEXT).read()


def without_colors(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def row_of(name: Path | str, summary: ScoreSummary) -> list[str]:
    figures = summary.nats / summary.chars, summary.bits_per_char, summary.perplexity
    return [str(name), str(summary.chars), *(f"{figure:.4f}" for figure in figures)]


def test_a_line_for_each_file(
    charstream: Charstream, server: ServerProcess, file: Path, summary: ScoreSummary, tmp_path: Path
) -> None:
    (tmp_path / "two").write_text("Who's there?")
    done = charstream("score", str(file), str(tmp_path / "two"), "-", "--host", server.address, stdin=TEXT)
    header, first, second, third = done.stdout.splitlines()
    assert header.split() == ["file", "characters", "nats/char", "bits/char", "perplexity"]
    assert first.split() == row_of(file, summary)
    assert second.split()[1] == "12"
    assert third.split() == row_of("-", summary), "the line end of a file counts, and so does that of a pipe"
    assert (done.returncode, done.stderr) == (0, "")


def test_json_has_what_was_asked_for(
    charstream: Charstream, server: ServerProcess, file: Path, summary: ScoreSummary
) -> None:
    flags = ("score", str(file), "--host", server.address, "--json")
    found = json.loads(charstream(*flags).stdout)
    assert found == {
        "file": str(file),
        "chars": summary.chars,
        "nats": summary.nats,
        "bits_per_char": summary.bits_per_char,
        "perplexity": summary.perplexity,
    }
    more = json.loads(charstream(*flags, "--each", "--alternatives", "2").stdout)
    assert -sum(more["logprobs"]) == pytest.approx(summary.nats)
    assert [len(places) for places in (more["logprobs"], more["alternatives"])] == [len(TEXT)] * 2
    (best, highest), (_, second) = more["alternatives"][0]
    assert len(best) == 1
    assert highest >= second


def test_parts_change_nothing(charstream: Charstream, server: ServerProcess, file: Path, summary: ScoreSummary) -> None:
    flags = ("score", str(file), "--host", server.address, "--json", "--each", "--part-chars", "5")
    found = json.loads(charstream(*flags).stdout)
    assert (found["chars"], len(found["logprobs"])) == (len(TEXT), len(TEXT))
    assert found["nats"] == pytest.approx(summary.nats)


def test_in_colors_the_text_stays_readable(
    charstream: Charstream, server: ServerProcess, file: Path, summary: ScoreSummary
) -> None:
    done = charstream("score", str(file), "--host", server.address, "--color", "always")
    assert "\x1b[" in done.stdout
    assert not re.search(r"\x1b\[3[^\n\x1b]*\n", done.stdout), "a colour would fill the rest of the line"
    *lines, scale, _, row = without_colors(done.stdout).splitlines(keepends=True)
    assert "".join(lines).replace("↵", "") == TEXT
    assert scale == without_colors(legend()) + "\n"
    assert row.split() == row_of(file, summary)


def test_a_terminal_has_colors_unless_it_wants_none(
    charstream: Charstream, server: ServerProcess, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("score", str(file), "--host", server.address)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" not in charstream(*flags).stdout, "a file or a pipe"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[" in charstream(*flags).stdout
    assert "\x1b[" not in charstream(*flags, "--color", "never").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in charstream(*flags).stdout
    assert "\x1b[" in charstream(*flags, "--color", "always").stdout, "who asks for them wants them"


def test_of_a_long_text_a_terminal_sees_how_far_it_is(
    charstream: Charstream, server: ServerProcess, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("x" * LONG)
    for output in (sys.stdout, sys.stderr):
        monkeypatch.setattr(output, "isatty", lambda: True)
    done = charstream("score", str(file), "--host", server.address, "--part-chars", "10000")
    assert "\x1b[" not in done.stdout
    percents = [int(percent) for percent in re.findall(r"(\d+)%", done.stderr)]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert done.stderr.endswith("\r")


def test_an_unknown_character_is_named_with_its_place_before_anything_is_scored(
    charstream: Charstream, server: ServerProcess, file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text(TEXT * 2 + "a café", encoding="utf-8")
    done = charstream("score", str(file), str(other), "--host", server.address, "--part-chars", "10")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"charstream score: {other}: character 'é' (U+00E9) in line 5, column 6, is not in the vocabulary of tiny: "
        "--unknown skip leaves out what the model does not know, --unknown replace "
        "puts another\n"
    )


@pytest.mark.parametrize(("unknown", "left"), [("skip", "To be, or"), ("replace", "To be, ?or")])
def test_unknown_characters_are_left_out_or_replaced_where_that_is_asked_for(
    charstream: Charstream, server: ServerProcess, tmp_path: Path, unknown: str, left: str
) -> None:
    path = tmp_path / "text"
    path.write_text("To be, \u00e9or")
    with Client(server.address) as client:
        expected = client.score(left).read()
    flags = ("score", str(path), "--host", server.address, "--unknown", unknown)
    done = charstream(*flags)
    assert done.stdout.splitlines()[1].split() == row_of(path, expected)
    how = "left out" if unknown == "skip" else "replaced"
    assert (done.returncode, done.stderr) == (0, f"{path}: 1 character is unknown to the model and {how}\n")
    assert without_colors(charstream(*flags, "--color", "always").stdout).startswith(left + "\n")
    found = json.loads(charstream(*flags, "--json", "--each").stdout)
    assert (found["chars"], found["unknown_chars"], len(found["logprobs"])) == (len(left), 1, len(left))


def test_where_several_are_served_the_default_is_what_the_text_is_held_against(
    charstream: Charstream, server: ServerProcess, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(server.address) as client:
        (tiny,) = client.models()
    other = dataclasses.replace(tiny, name="other", vocabulary="é", is_server_default=False)
    served = [other, dataclasses.replace(tiny, is_server_default=True)]
    monkeypatch.setattr(Client, "models", lambda self, **_: served)
    file.write_text("café", encoding="utf-8")
    done = charstream("score", str(file), "--host", server.address)
    assert (done.returncode, done.stdout) == (2, "")
    assert "character 'é' (U+00E9) in line 1, column 4, is not in the vocabulary of tiny" in done.stderr


def test_a_text_is_read_as_training_reads_it(charstream: Charstream, server: ServerProcess, file: Path) -> None:
    """A byte order mark is no character of it, and lines may end as on Windows."""
    file.write_text("a\nb")
    plain = charstream("score", str(file), "--host", server.address)
    file.write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert charstream("score", str(file), "--host", server.address).stdout == plain.stdout != ""


@pytest.mark.parametrize(
    ("content", "flags", "says"),
    [
        (b"", [], "is empty"),
        (b"caf\xe9", [], "not UTF-8 at byte 3"),
        (b"a", ["no/such/file"], "no/such/file: No such file or directory; a text itself comes by: echo"),
        (b"a", ["--model", "huge"], "huge"),
        (b"a", ["--each"], "--json"),
        (b"a", ["--alternatives", "1"], "--json"),
        (b"a", ["--alternatives", "21", "--json"], "alternatives"),
        (b"a", ["--color", "always", "--json"], "--color"),
        (b"a", ["--color", "red"], "--color"),
    ],
)
def test_what_the_caller_can_correct_is_one_line_and_exit_code_2(
    charstream: Charstream, server: ServerProcess, file: Path, content: bytes, flags: list[str], says: str
) -> None:
    file.write_bytes(content)
    done = charstream("score", str(file), "--host", server.address, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("charstream score: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_a_file_is_needed(charstream: Charstream) -> None:
    done = charstream("score")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "FILE" in done.stderr


def test_no_server_is_one_line_and_exit_code_1(charstream: Charstream, file: Path) -> None:
    done = charstream("score", str(file), "--host", dead_address())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def bits(*values: float) -> list[float]:
    return [-value * math.log(2) for value in values]


def test_more_surprise_is_another_color_and_none_has_none() -> None:
    assert paint("the", bits(0, 0.5, 0.9)) == "the"
    hotter = [paint("x", bits(value)) for value in (0, 1, 2, 3, 4, 6, 8, 100)]
    assert len(set(hotter)) == 7
    assert hotter[-2] == hotter[-1]
    assert paint("ab", bits(3, 3.5)).count("\x1b[0m") == 1, "a run needs one code"


def test_a_line_end_is_seen_where_it_surprises() -> None:
    assert paint("a\nb", bits(0, 0, 0)) == "a\nb"
    assert without_colors(paint("a\n\nb", bits(0, 9, 9, 0))) == "a↵\n↵\nb"


def test_a_text_does_not_steer_the_terminal() -> None:
    assert paint("\x1b[2J\r\x7f\t", bits(*[0] * 7)) == "␛[2J␍␡\t"
    assert "\x1b[2J" not in paint("\x1b[2J", bits(*[9] * 4))
