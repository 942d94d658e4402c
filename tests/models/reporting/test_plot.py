"""The picture of runs shows what they measured, each under its name; what is no run is told in one line."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from charstream.settings import parse
from models.reporting.curve_figure import curve_figure
from models.reporting.curves import read_curves
from models.reporting.plot import main
from models.train import train_model
from models.training.settings import TrainSettings

CHARS_PER_STEP = 8 * 16
PNG = b"\x89PNG\r\n\x1a\n"


def run_of(folder: Path, *, level: float = 1.5, steps: int = 400) -> Path:
    """A run's folder as training leaves it, whose losses are known."""
    folder.mkdir(parents=True)
    lines: list[dict[str, float | str]] = [{"step": 0, "seconds": 0.1, "sample": "xq"}]
    for step in range(25, steps + 1, 25):
        loss = level + 2 / step
        norms = {"gradient_norm": 0.5, "gradient_norm_max": 0.9, "update_ratio": 1e-3}
        lines.append({"step": step, "seconds": step / 10, "loss": loss, "learning_rate": 1e-2, "skipped": 0, **norms})
        if step % 100 == 0:
            lines.append({"step": step, "seconds": step / 10, "validation": loss + 0.25})
    if steps:
        lines.append({"step": steps, "seconds": steps / 10 + 2, "carried": level + 0.3})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    header = {"settings": {"batch": 8, "sequence": 16}, "training": {"parameters": 1234}}
    (folder / "last.json").write_text(json.dumps(header))
    return folder


def test_two_runs_in_one_picture_and_their_figures_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [run_of(tmp_path / "low"), run_of(tmp_path / "high", level=2.0)]
    out = tmp_path / "plots" / "both.png"
    assert main([*map(str, runs), "--out", str(out), "--json"]) == 0
    assert out.read_bytes().startswith(PNG)
    low, high = json.loads(capsys.readouterr().out)
    assert low == {
        "run": "low",
        "parameters": 1234,
        "steps": 400,
        "characters": 400 * CHARS_PER_STEP,
        "seconds": 42.0,
        "training_nats": 1.505,
        "best_validation_nats": pytest.approx(1.755),
        "carried_nats": 1.8,
        "bits_per_character": pytest.approx(1.8 / np.log(2)),
    }
    assert high["training_nats"] == 2.005


def test_every_run_stands_in_the_legend_whatever_its_name(tmp_path: Path) -> None:
    names = ["_hidden", "a$b$", "plain"]
    figure = curve_figure([read_curves(run_of(tmp_path / name)) for name in names])
    legend = figure.axes[0].get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[-3:] == [" _hidden", r"a\$b\$", "plain"]
    assert texts[:3] == ["training, smoothed", "validation, a sample", "validation, all of it"]


@pytest.mark.parametrize(
    ("against", "last", "label"),
    [
        ("steps", 400, "optimiser steps"),
        ("characters", 400 * CHARS_PER_STEP, "characters trained on"),
        ("seconds", 40, "seconds"),
    ],
)
def test_the_x_axis_is_what_was_asked_for(tmp_path: Path, against: str, last: float, label: str) -> None:
    figure = curve_figure([read_curves(run_of(tmp_path / "run"))], against)  # type: ignore[arg-type]
    losses, *_, ratios = figure.axes[:4]
    validation = max(losses.lines, key=lambda line: line.get_marker() == "o")
    assert np.asarray(validation.get_xdata())[-1] == last
    assert ratios.get_xlabel() == label


def test_the_axes_say_what_they_show_and_show_the_end_of_the_curves(tmp_path: Path) -> None:
    losses, rate, norm, ratio = curve_figure([read_curves(run_of(tmp_path / "run"))]).axes[:4]
    labels = [axes.get_ylabel() for axes in (losses, rate, norm, ratio)]
    assert labels[0] == "loss (nats per character)"
    assert all(labels)
    low, high = losses.get_ylim()
    assert low < 1.505 < 1.8 < high


def test_a_run_that_goes_on_or_was_cut_off_can_be_drawn(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    (run / "last.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 425, "lo')
    assert main([str(run), "--out", str(tmp_path / "run.svg")]) == 0
    assert "<svg" in (tmp_path / "run.svg").read_text()


DAMAGED = (
    *('{"step": "x", "loss": 1.0}', '{"step": null, "loss": 1.0}', "[]", '{"step": 25, "seconds": "x", "loss": 1.0}'),
    *('{"step": 400, "loss": "abc"}', '{"step": 400, "loss": [1, 2]}', '{"step": 400, "loss": 1e308}'),
    *('{"step": 400, "sample": 5}', '{"step": 400, "sample": "\xff', '{"step": 1e400, "loss": 1.0}'),
)


def damage(run: Path) -> None:
    """Adds lines to metrics.jsonl that no run writes."""
    with (run / "metrics.jsonl").open("ab") as file:
        file.write("".join(line + "\n" for line in DAMAGED).encode("latin-1"))


@pytest.mark.parametrize("header", ["[]", '{"settings": 5, "training": []}', '{"training": {"parameters": "x"}}'])
def test_damaged_lines_and_headers_change_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: str
) -> None:
    run = run_of(tmp_path / "run")
    (run / "last.json").write_text(header)
    figures = []
    for _ in range(2):
        assert main([str(run), "--out", str(tmp_path / "run.svg"), "--json"]) == 0
        figures.append(json.loads(capsys.readouterr().out)[0])
        damage(run)
    assert figures[1] == figures[0]


def test_a_run_that_has_measured_no_loss_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run", steps=0)
    with pytest.raises(SystemExit) as end:
        main([str(run), "--out", str(tmp_path / "run.png")])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"charstream plot: {run}: no loss measured yet\n"


def of_bytes(run: Path) -> Path:
    header = json.loads((run / "last.json").read_text())
    (run / "last.json").write_text(json.dumps({**header, "unit": "bytes"}))
    return run


def test_losses_of_bytes_are_not_said_to_be_of_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = of_bytes(run_of(tmp_path / "run")), run_of(tmp_path / "other")
    for runs, unit in (([run], "byte"), ([run, other], "symbol")):
        figure = curve_figure([read_curves(one) for one in runs], "characters")
        assert figure.axes[0].get_ylabel() == f"loss (nats per {unit})"
        assert [axes.get_ylabel() for axes in figure.axes[0].child_axes] == [f"bits per {unit}"]
        assert figure.axes[3].get_xlabel() == f"{unit}s trained on"
    assert main([str(run), "--out", str(tmp_path / "run.svg"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)[0]
    assert figures["bytes"] == 400 * CHARS_PER_STEP
    assert figures["bits_per_byte"] == pytest.approx(1.8 / np.log(2))


@pytest.mark.parametrize("vocabulary", ["characters", "bytes"])
def test_symbols_trained_on_are_those_of_a_text_that_is_shorter_than_its_windows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], vocabulary: str
) -> None:
    (tmp_path / "text").write_text("hello")
    flags = ["--data", str(tmp_path / "text"), "--out", str(tmp_path / "run"), "--vocabulary", vocabulary]
    flags += ["--split", "1", "--preset", "min-char-rnn", "--hidden", "4", "--steps", "25"]
    assert train_model(parse(TrainSettings, flags, command="test"))["characters"] == 25 * 4
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "run.svg"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0][vocabulary] == 25 * 4


@contextmanager
def full_disk() -> Iterator[None]:
    """Files can have 1,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_picture_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    run, out = run_of(tmp_path / "run"), tmp_path / "plots" / "run.svg"
    assert main([str(run), "--out", str(out)]) == 0
    before = out.read_bytes()
    with full_disk(), pytest.raises(OSError) as error:  # noqa: PT011
        main([str(run), "--out", str(out)])
    assert error.value.filename == str(out)  # which the command's line begins with
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            ["none", "--out", "x.png"],
            "none: no run there (metrics.jsonl: No such file or directory); `charstream train ",
        ),
        (["empty", "--out", "x.png"], "empty: metrics.jsonl is empty: the run has measured nothing yet"),
        (["run", "--out", "x.bmp"], "--out: the picture's name must end in .png, .svg, .pdf"),
        (["run"], "--out: is missing: "),
    ],
)
def test_a_wrong_value_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    run_of(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").touch()
    with pytest.raises(SystemExit) as end:
        main(flags)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"charstream plot: {reason}")


def test_two_points_are_no_line(tmp_path: Path) -> None:
    """A steep line from an untrained model to the end would show nothing of the way between them."""
    losses = {
        steps: curve_figure([read_curves(run_of(tmp_path / f"{steps}", steps=steps))]).axes[0] for steps in (200, 400)
    }
    dotted = {steps: [line for line in axes.lines if line.get_marker() == "o"] for steps, axes in losses.items()}
    assert [line.get_linestyle() for line in dotted[200]] == ["None"]
    assert [line.get_linestyle() for line in dotted[400]] == ["-"]
