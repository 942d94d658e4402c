"""The table of options has every two of them, and its rows go all the way."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.correctness import options
from benchmarks.correctness.option_rows import LEFT_OUT, OPTIONS, STRUCTURES, rows
from benchmarks.correctness.options import main
from benchmarks.support import servers
from tests.forked import ForkingSubprocess, context

pytestmark = pytest.mark.slow


def met(table: list[dict[str, object]]) -> set[frozenset[tuple[str, object]]]:
    """Pairs by brute force."""
    return {
        frozenset({(one, row[one]), (other, row[other])})
        for row in table
        for one, other in itertools.combinations(OPTIONS, 2)
    }


def test_every_two_options_meet_unless_they_are_left_out() -> None:
    every = {
        frozenset({(one, a), (other, b)})
        for one, other in itertools.combinations(OPTIONS, 2)
        for a, b in itertools.product(OPTIONS[one], OPTIONS[other])
    }
    found = [row for row in rows() if not row.must_fail]
    assert met([row.options for row in found]) == every - LEFT_OUT.keys()
    assert all(structure in [row.structure for row in found] for structure in STRUCTURES)
    assert len(STRUCTURES) == 22


def test_the_table_is_the_same_each_time_and_not_much_longer_than_it_must_be() -> None:
    assert [str(row) for row in rows()] == [str(row) for row in rows()]
    assert len(rows()) <= 1.25 * len(OPTIONS["init"]) * len(OPTIONS["optimizer"])


def test_rows_are_trained_exported_verified_and_streamed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CHARSTREAM_CACHE", str(tmp_path))  # which it sets: afterwards all is as before
    monkeypatch.setattr(options, "multiprocessing", SimpleNamespace(get_context=lambda method: context))
    monkeypatch.setattr(servers, "subprocess", ForkingSubprocess())
    assert main(["--only", "row-12", "--only", "row-23", "--processes", "1"]) == 0
    out = capsys.readouterr().out
    assert "2 rows, 0 missed" in out
    assert "residual connection begins at the second layer" in out


def test_a_row_that_is_none_is_told_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--only", "row-999"])
    assert ended.value.code == 2
    assert "row-999: rows are row-00, row-01" in capsys.readouterr().err
