"""A folder of many runs: what is not ours stays, and whoever is stopped is told how to go on."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from charstream.settings import parse
from models.experiments import compare, search
from models.experiments.folder import ExperimentError, begin_experiment, open_experiment, stoppable
from models.experiments.settings import CompareSettings

Main = Callable[[list[str]], int]


@pytest.mark.parametrize(("main", "option"), [(compare.main, "--vary"), (search.main, "--space")])
@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
@pytest.mark.parametrize("editor", ["", '{"editor.fontSize": 14}', "[]"])
def test_runs_that_are_no_experiment_s_are_never_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], main: Main, option: str, flags: list[str], editor: str
) -> None:
    run = tmp_path / "runs" / "mine" / "best.json"
    run.parent.mkdir(parents=True)
    run.write_text("weeks of work")
    if editor:
        (tmp_path / "settings.json").write_text(editor)
    with pytest.raises(SystemExit) as end:
        main(["--data", "verse.txt", "--out", str(tmp_path), option, "layers=1,2", *flags])
    assert end.value.code == 2
    assert "runs, which no search or comparison of ours left there" in capsys.readouterr().err
    assert run.read_text() == "weeks of work"


def test_overwrite_replaces_an_experiment_and_nothing_beside_it(tmp_path: Path) -> None:
    def settings(*flags: str) -> CompareSettings:
        return parse(CompareSettings, ["--data", "verse.txt", "--out", str(tmp_path), *flags], command="test")

    begin_experiment(open_experiment(settings()))
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ExperimentError, match="is taken: go on with it by --resume, or replace it by --overwrite"):
        open_experiment(settings())
    begin_experiment(open_experiment(settings("--overwrite", "--seed", "1")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "settings.json"]
    assert open_experiment(settings("--resume")).seed == 1


def test_settings_older_than_an_option_are_what_they_were(tmp_path: Path) -> None:
    """The preset has pieces now; a comparison that was begun without them goes on without them."""

    def settings(*flags: str) -> CompareSettings:
        return parse(CompareSettings, ["--out", str(tmp_path), "--preset", "demo", *flags], command="test")

    begin_experiment(settings("--data", "verse.txt", "--no-shuffle"))
    kept = json.loads((tmp_path / "settings.json").read_text())
    del kept["shuffle"]
    (tmp_path / "settings.json").write_text(json.dumps(kept))
    assert not open_experiment(settings("--resume")).shuffle


@pytest.mark.parametrize("content", ["[]", "5", "{}", "{"])
def test_damaged_settings_are_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(ExperimentError, match=r"settings.json: not of this command"):
        open_experiment(parse(CompareSettings, ["--out", str(tmp_path), "--resume"], command="test"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_says_how_to_go_on(capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int) -> None:
    # Whoever starts the tests in the background of a shell has SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end, stoppable("charstream search", Path("my runs")):
            signal.raise_signal(number)
    finally:
        signal.signal(signal.SIGINT, before[0])
    assert end.value.code == code
    line = "charstream search: stopped; go on with: charstream search --out 'my runs' --resume\n"
    assert capsys.readouterr().err == line
    assert signal.getsignal(signal.SIGTERM) is before[1]
