"""`charstream check`: what it says, what it leaves, and how it fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from charstream.__main__ import main as charstream
from models.check.command import CHECKS, main
from models.check.settings import Name
from models.reporting.report import make_report
from tests.models.conftest import SMALL

Train = Callable[..., Path]
PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.usefixtures("cache")


def _fails(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line that a wrong call ends in."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(flags))
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("charstream check: ")]
    return line


def test_each_check_can_be_asked_for_by_name() -> None:
    assert list(get_args(Name)) == list(CHECKS)


def test_a_sound_configuration_passes_and_leaves_plots_and_figures(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(verse), *SMALL, "--dropout", "0", "--learning-rate", "0.01", "--steps", "60"]
    assert charstream(["check", *flags, "--out", str(tmp_path / "check")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[1] for line in lines[:-1]} == set(CHECKS)
    assert "0 failed" in lines[-1]
    report = json.loads((tmp_path / "check" / "check.json").read_text())
    assert [check["name"] for check in report["checks"]] == list(CHECKS)
    assert report["run"] is None
    for check in report["checks"]:
        assert (tmp_path / "check" / check["plot"]).read_bytes().startswith(PNG)


def test_what_fails_is_said_and_gives_exit_code_1(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(verse), *SMALL, "--init", "zeros", "--only", "activations", "--only", "loss"]
    assert main([*flags, "--out", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert [line.split()[:2] for line in out.splitlines()[:-1]] == [
        ["ok", "loss"],
        ["warning", "loss"],
        ["failed", "activations"],
    ]
    assert sorted(file.name for file in tmp_path.glob("*.png")) == ["activations.png", "loss.png"]


def test_a_run_is_checked_by_its_own_weights_and_figures(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("--characters", "7680", "--dropout", "0", "--learning-rate", "0.01")
    capsys.readouterr()
    assert (
        main([str(run), "--steps", "5", "--only", "updates", "--only", "gap", "--only", "activations", "--json"]) == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((run / "check" / "check.json").read_text())
    assert report["run"] == str(run)
    figures = {check["name"]: check["figures"] for check in report["checks"]}
    assert figures["updates"]["source"] == "run, 60 steps"
    assert figures["activations"]["trained"] != figures["activations"]["untrained"]
    assert figures["gap"]["training_nats"] < 2.5


def test_flags_of_another_model_than_the_run_s_are_refused(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("--steps", "2")
    line = _fails(capsys, str(run), "--hidden", "64")
    assert line.endswith("has hidden 32, not 64: leave it out, or check without a run")


def test_another_text_than_the_run_s_is_refused(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = train("--steps", "2"), tmp_path / "other.txt"
    other.write_text("Ganz andere Zeichen: äöü.\n" * 40)
    assert "has other characters" in _fails(capsys, str(run), "--data", str(other))


def test_wrong_calls_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = tmp_path / "short.txt"
    short.write_text("hello\n")
    assert "--data is missing" in _fails(capsys)
    assert "too few to check" in _fails(capsys, "--data", str(short))
    assert "no checkpoint there" in _fails(capsys, str(tmp_path / "nothing"))
    assert "--only" in _fails(capsys, "--data", str(short), "--only", "everything")


def test_one_symbol_is_nothing_to_measure_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.txt").write_text("a" * 5000)
    only = [text for name in ("loss", "overfit", "updates", "gap", "reach") for text in ("--only", name)]
    flags = ("--data", str(tmp_path / "one.txt"), "--out", str(tmp_path / "check"), "--distill-from", "nowhere")
    assert main([*flags, *only]) == 0
    said = capsys.readouterr()
    assert "--distill-from is left out" in said.err
    lines = said.out.splitlines()
    assert len(lines) == 6
    assert all("not measured: the text has one symbol alone" in line for line in lines[:5])


def test_help_lists_its_own_flags_and_takes_those_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    listed = capsys.readouterr().out
    assert "--only" in listed
    assert "--learning-rate" not in listed


def test_the_page_of_a_run_has_its_checks_at_once(train: Train) -> None:
    run = train("--steps", "2")
    page = make_report(run)
    assert "nats before training" not in page.read_text()
    assert main([str(run), "--only", "loss"]) == 0
    assert "nats before training" in page.read_text()
