"""metrics.jsonl outlives processes that die while they write to it."""

from pathlib import Path

import pytest

from models.run_folder import METRICS
from models.runs.metrics import Metrics

LINES = ['{"step": 1, "loss": 2.5}', '{"step": 2, "loss": 2.0}', '{"step": 3, "loss": 1.5}']


def test_what_came_after_the_checkpoint_and_a_line_that_was_cut_off_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / METRICS
    file.write_text("\n".join([*LINES, '{"step": 2, "sample": "{cut}']))
    Metrics(tmp_path).forget_after(2)
    assert file.read_text().splitlines() == LINES[:2]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("line", [b'{"step": "x"}', b'{"step": null}', b"[]", b"{}", b"5", b'{"step": 1, "\xff'])
def test_damaged_lines_are_dropped(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / METRICS
    file.write_bytes(b"\n".join([line, *(line.encode() for line in LINES)]))
    Metrics(tmp_path).forget_after(2)
    assert file.read_text().splitlines() == LINES[:2]


def test_dropping_lines_never_leaves_less_than_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    file = tmp_path / METRICS
    file.write_text("\n".join(LINES))
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Metrics(tmp_path).forget_after(0)
    assert file.read_text().splitlines() == LINES
