"""`charstream data` says what a text is."""

import json
from pathlib import Path

import pytest

from models.data import main


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


def test_a_text_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "none.txt")])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
