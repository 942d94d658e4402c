"""`charstream data` says what a text is."""

import json
from pathlib import Path

import pytest

from models.data.command import main


def test_it_prints_what_the_text_is(verse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(verse)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["characters"] == f"{len(verse.read_text()):,}"
    assert lines["path"] == str(verse)


def test_as_json(verse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(verse), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["training"] + facts["validation"] == facts["characters"] == len(verse.read_text())
    assert facts["distinct"] == len(set(verse.read_text()))


def test_of_bytes_and_with_a_part_for_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\u20ac" * 100, "utf-8")
    assert main([str(path), "--json", "--vocabulary", "bytes", "--split", "0.5,0.25,0.25"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [facts[name] for name in ("bytes", "training", "validation", "test")] == [300, 150, 75, 75]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("none.txt", "none.txt: no such file"),
        ("n" * 300, "file name too long"),
        ("", "DATA: string should have at least 1 character"),
        ("http://[::1", "not an address: Invalid IPv6 URL"),
        ("ftp://127.0.0.1/a.txt", "an address begins with http:// or https://"),
    ],
)
def test_a_text_that_cannot_be_had_is_one_line(
    cache: Path, capsys: pytest.CaptureFixture[str], data: str, reason: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main([data])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
