"""A run begins where nothing is lost by it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from models.reporting.report import make_report
from models.run_folder import BEST
from models.train import main
from models.training.checkpoint import CheckpointError, load, read, save
from models.training.schedule import TooShort

Train = Callable[..., Path]
LEFT = {
    "best": ("last.*", r"holds a run: begin another with its weights by --init-from \S+, or replace it by --overwrite"),
    "last": ("best.*", "holds a run: go on with it by --resume, or replace it by --overwrite"),
    "metrics": ("*.*s*on", "holds a run: replace it by --overwrite"),
}


def _contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}


@pytest.mark.parametrize("what", LEFT)
def test_whatever_is_left_of_a_run_is_replaced_only_if_asked(train: Train, what: str) -> None:
    gone, reason = LEFT[what]
    run = train("--steps", "1")
    for file in (*run.glob(gone), *(run.glob("*.safetensors") if what == "metrics" else ())):
        file.unlink()
    if what != "metrics":
        (run / "metrics.jsonl").unlink()
    before = _contents(run)
    with pytest.raises(CheckpointError, match=reason):
        train("--steps", "2")
    assert _contents(run) == before
    train("--steps", "2", "--overwrite")
    assert load(run).record.steps <= read(run / "last.json")[0].progress.step == 2


def test_a_run_older_than_a_setting_stays_as_it_was_when_its_preset_says_more_now(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its text was read in stripes: the preset's --shuffle of today must not make it read another one half way."""
    run = train("--preset", "demo", "--no-shuffle", "--restart-every", "32", "--steps", "2")
    header = json.loads((run / "last.json").read_text())
    newer = ("shuffle", "glob", "encoding", "profile")
    old = {name: value for name, value in header["settings"].items() if name not in newer}
    (run / "last.json").write_text(json.dumps(header | {"settings": old}))
    settings = read(run / "last.json")[0].settings
    assert settings
    assert (settings.preset, settings.shuffle, settings.restart_every) == ("demo", False, 32)
    assert "--no-shuffle" in make_report(run).read_text()
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(run), "--resume", "--preset", "shakespeare"])
    assert "was begun with" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(run), "--resume", "--shuffle"])
    assert "was begun with shuffle False, not True" in capsys.readouterr().err
    assert main(["--out", str(run), "--resume", "--preset", "demo"]) == 0
    settings = read(run / "last.json")[0].settings
    assert settings
    assert not settings.shuffle


def test_overwriting_leaves_what_is_of_no_run(train: Train) -> None:
    run = train("--steps", "1")
    (run / "tensorboard").mkdir()
    (run / "tensorboard" / "events").touch()
    (run / "best.txt").touch()
    old = set(run.glob("*.safetensors"))
    train("--steps", "2", "--overwrite")
    assert (run / "best.txt").exists()
    assert not (run / "tensorboard").exists()
    assert not old & set(run.iterdir())


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_a_folder_of_no_run_keeps_all_its_files(train: Train, tmp_path: Path, flags: tuple[str, ...]) -> None:
    own = ("best.txt", "last.pt", "best.mine.safetensors", "check/check.json", "tensorboard/events")
    for name in own:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("mine")
    train("--steps", "1", *flags)
    assert all((tmp_path / "run" / name).read_text() == "mine" for name in own)


def test_weights_alone_are_begun_from_and_not_gone_on_with(train: Train) -> None:
    run = train("--steps", "1")
    header, tensors = read(run)
    for file in run.glob("last.*"):
        file.unlink()
    save(run, BEST, header.model_copy(update={"settings": None}), tensors)
    with pytest.raises(CheckpointError, match=f"begin another run by --init-from {run}"):
        train("--resume")


def test_too_little_time_is_refused_at_once_and_leaves_nothing(train: Train, tmp_path: Path) -> None:
    with pytest.raises(TooShort, match=r"a step takes .* s here, .*; --minutes .* would do, or a smaller model"):
        train("--minutes", "0.001")
    assert not (tmp_path / "run").exists()
    run = train("--steps", "1")
    assert read(run / "last.json")[0].progress.step == 1


def test_a_run_that_turns_out_too_short_takes_only_its_own_files_away(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As only its first steps may show; the next try finds the folder free, and the user's files are all there."""
    pytest.importorskip("tensorboard")
    own = ("check/check.json", "tensorboard/events", "report.html", "notes")
    for name in own:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("mine")
    before = _contents(tmp_path / "run")

    def refuse(*_: object, **__: object) -> None:
        raise TooShort("too short")

    with monkeypatch.context() as patch:
        patch.setattr("models.runs.run.plan_for_minutes", refuse)
        with pytest.raises(TooShort):
            train("--minutes", "0.15", "--tensorboard")
    assert _contents(tmp_path / "run") == before
    assert read(train("--steps", "1") / "last.json")[0].progress.step == 1


def test_a_run_from_standard_input_says_so_and_finds_its_text_again(
    train: Train, verse: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with verse.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        header = read(train("--data", "-", "--steps", "2") / "last.json")[0]
    assert header.settings
    kept = Path(header.settings.data)
    assert (header.training.data, kept.parent, kept.read_text()) == ("stdin", cache, verse.read_text())
    assert header.training.data_sha256 == read(train("--steps", "1", name="other"))[0].training.data_sha256
