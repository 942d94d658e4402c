"""A run learns, keeps to its bounds, survives being stopped, and fails in one line."""

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import models.runs.run
from charstream.__main__ import main as charstream
from charstream.settings import parse
from models.runs.run import Run
from models.runs.start import begin
from models.train import main
from models.train import train as train_loop
from models.training.checkpoint import load, read, save
from models.training.settings import PRESETS, TrainSettings, train_command
from tests.forked import ForkedPython
from tests.models.conftest import SMALL, flags_of

Train = Callable[..., Path]


def _same_weights(a: Path, b: Path) -> bool:
    """Whether two runs end in the same model, optimiser, state and random numbers, to the bit."""
    first, second = read(a / "last.json")[1], read(b / "last.json")[1]
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _fails(capsys: pytest.CaptureFixture[str], *flags: str, code: int = 2) -> str:
    """The one line that a wrong call ends in."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(flags))
    assert end.value.code == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("charstream train: ")]
    assert len(lines) == 1
    return lines[0]


def test_it_learns_more_than_the_frequencies_of_characters(train: Train, verse: Path, cell: dict[str, str]) -> None:
    run = train("--steps", "200", "--learning-rate", "0.01", *flags_of(cell))
    shares = np.array(list(Counter(verse.read_text()).values())) / len(verse.read_text())
    unigram_entropy = -(shares * np.log(shares)).sum()
    assert load(run).record.validation_nats["carried"] < 0.7 * unigram_entropy


def test_a_run_leaves_its_losses_and_texts_and_says_what_it_came_to(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["--data", str(verse), "--out", str(run), *SMALL, "--steps", "50", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert result["carried_nats"] == load(run).record.validation_nats["carried"] == lines[-1]["carried"]
    assert result["characters"] == 50 * 8 * 16
    assert [line["step"] for line in lines if "loss" in line] == [25, 50]
    told = {"loss", "learning_rate", "gradient_norm", "gradient_norm_max", "update_ratio", "skipped"}
    assert all(told <= line.keys() for line in lines if "loss" in line)
    assert (run / "report.html").exists()
    assert [line["step"] for line in lines if "sample" in line] == [0, 6, 27, 50]


def test_the_same_seed_gives_the_same_model(train: Train) -> None:
    runs = [train("--steps", "5", "--dropout", "0.5", "--seed", seed, name=name) for name, seed in ["a1", "b1", "c2"]]
    assert _same_weights(runs[0], runs[1])
    assert not _same_weights(runs[0], runs[2])


def test_minutes_bound_the_wall_clock(train: Train) -> None:
    run = train("--minutes", "0.15")
    progress = read(run / "last.json")[0].progress
    assert 1 < progress.step == progress.budget
    assert progress.seconds < 0.15 * 60


def test_it_says_that_the_time_was_up_before_the_steps(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = Run.orders
    monkeypatch.setattr(Run, "orders", lambda run, leave: orders(run, leave)._replace(end=run.trainer.step >= 5))
    run = train("--steps", "40")
    assert read(run / "last.json")[0].progress.step == 5
    assert "the time is up after 5 of these steps" in capsys.readouterr().err


def test_interrupted_and_resumed_is_bitwise_the_same_as_in_one_go(verse: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    flags = ["--data", str(verse), *SMALL, "--dropout", "0.2", "--steps", "400"]
    command = ["-m", "charstream", "train", *flags]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    with ForkedPython([*command, "--out", str(stopped)], env=environment, stderr=subprocess.PIPE) as process:
        _wait_for(lambda: '"step": 50,' in _text(stopped / "metrics.jsonl"))
        process.send_signal(signal.SIGINT)
        assert process.stderr
        last_line = process.stderr.read().splitlines()[-1]
        assert process.wait(120) == 128 + signal.SIGINT
    assert 50 <= read(stopped / "last.json")[0].progress.step < 400

    again = shlex.split(last_line.partition("go on with: ")[2])
    assert again == ["charstream", "train", "--out", str(stopped), "--resume"]
    assert main(again[2:]) == 0
    assert main([*flags, "--out", str(whole)]) == 0
    assert _same_weights(stopped, whole)
    assert load(stopped).record.validation_nats == load(whole).record.validation_nats
    steps = [json.loads(line)["step"] for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


class Dies:
    """Ends the process's work before the given step, with no chance to save."""

    def __init__(self, step: int) -> None:
        self.steps = iter(range(step))

    def __bool__(self) -> bool:
        if next(self.steps, None) is None:
            raise SystemExit
        return False


@pytest.mark.parametrize("cell", ["lstm", "rnn"], indirect=True)  # two arrays of state, and one
def test_a_run_that_dies_between_two_checks_goes_on_from_where_time_saved_it(
    train: Train, verse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: dict[str, str]
) -> None:
    own = ["--steps", "40", "--dropout", "0.2", "--layers", "2", *flags_of(cell)]
    whole, died = train(*own, name="whole"), tmp_path / "died"
    monkeypatch.setattr(models.runs.run, "SAVE_SECONDS", 0)
    flags = ["--data", str(verse), "--out", str(died), *SMALL, *own]
    with pytest.raises(SystemExit):
        train_loop(begin(parse(TrainSettings, flags, command="test"), time.monotonic()), Dies(7))
    assert read(died / "last.json")[0].progress.step == 7  # checks are at 6 and 8
    assert main(["--out", str(died), "--resume"]) == 0
    assert _same_weights(died, whole)


def test_a_run_is_not_overwritten_unasked(train: Train, verse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("--steps", "3")
    again = ["--data", str(verse), "--out", str(run), *SMALL, "--steps", "4"]
    assert "go on with it by --resume, or replace it by --overwrite" in _fails(capsys, *again)
    assert main([*again, "--overwrite"]) == 0
    assert load(run).record.steps <= read(run / "last.json")[0].progress.step == 4


def test_resume_refuses_what_would_not_be_the_same_run(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("--steps", "3")
    other = tmp_path / "other.txt"
    other.write_text("another text, and not a short one\n" * 40)
    resume = ["--out", str(run), "--resume"]
    assert "was begun with hidden 32, not 64" in _fails(capsys, *resume, "--hidden", "64")
    assert "was begun with cell lstm, not gru" in _fails(capsys, *resume, "--cell", "gru")
    assert "is not the text of the run" in _fails(capsys, *resume, "--data", str(other))
    assert "no checkpoint there" in _fails(capsys, "--out", str(tmp_path / "none"), "--resume")
    assert main(resume) == 0


def test_resume_takes_an_activation_without_its_cell(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("--steps", "3", "--cell", "rnn", "--activation", "sigmoid")
    resume = ["--out", str(run), "--resume"]
    assert "was begun with activation sigmoid, not tanh" in _fails(capsys, *resume, "--activation", "tanh")
    assert main([*resume, "--activation", "sigmoid"]) == 0


def test_resume_refuses_weights_that_do_not_fit(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("--steps", "3")
    header, tensors = read(run / "last.json")
    save(run, "last", header, {name.replace("layers.", "lstm."): tensor for name, tensor in tensors.items()})
    assert "do not fit the model" in _fails(capsys, "--out", str(run), "--resume")


def test_a_lost_loss_is_one_line_and_leaves_a_good_checkpoint(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = ["--data", str(verse), "--out", str(out), *SMALL, "--steps", "2000", "--warmup", "2000"]
    line = _fails(capsys, *flags, "--learning-rate", "1e37", code=1)
    assert "try a lower --learning-rate" in line
    for path in out.glob("*.json"):
        assert all(tensor.isfinite().all() for tensor in load(path).model.state_dict().values())


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--hidden", "0"], "--hidden: input should be greater than or equal to 1 (got '0')"),
        (["--minutes", "1", "--steps", "2"], "give --minutes or --steps, not both"),
        (
            ["--preset", "huge"],
            "--preset: input should be 'default', 'demo', 'tiny', 'shakespeare', 'best', 'char-rnn' or 'min-char-rnn'",
        ),
        (["--cell", "mlp"], "--cell: input should be 'rnn', 'gru' or 'lstm' (got 'mlp')"),
        (
            ["--cell", "gru", "--activation", "sigmoid"],
            "only the cell rnn has a choice of activation: sigmoid with gru",
        ),
        (["--batch", "4096"], "4096 streams of 16 characters need 65,537; --batch 1024 --sequence 16 would do"),
        (["--data", "none.txt"], "none.txt: no such file"),
        (["--data", ""], "--data is missing: shakespeare, tinyshakespeare, a text file"),
        (["--minutes", "1e-6"], "--minutes 1e-06 is too short"),
        (["--cell", "rnn", "--activation", "maxout", "--form", "pre", "--hidden", "33"], "pools pairs of hidden units"),
        (["--norm", "batch", "--batch", "1", "--sequence", "1"], "--batch or --sequence must be 2 at least"),
        (["--shuffle", "--restart-every", "0"], "--shuffle reads pieces of --restart-every windows, and 0 is none"),
        (["--device", "cuda:7"], "--device cuda:7: torch finds 0 GPUs here"),
        (["--device", "tpu"], "--device: is 'tpu', allowed are values like auto, cpu"),
        (["--split", "0.5,0.6"], "--split 0.5,0.6: expected the shares of training, validation and test"),
        (["--wrong"], "unrecognized arguments: --wrong"),
    ],
)
def test_a_wrong_value_is_one_line(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    assert reason in _fails(capsys, "--data", str(verse), "--out", str(tmp_path / "run"), *SMALL, *flags)


def test_flags_override_the_preset(verse: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    main(["--data", str(verse), "--out", str(out), "--preset", "demo", "--hidden", "16", "--steps", "1"])
    header = read(out / "last.json")[0]
    assert header.model.hidden == 16
    assert header.model.layers == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_turns_on_can_be_turned_off(preset: str) -> None:
    """And the command that a report prints for such a run is one that can be typed."""
    turned = {name: not value for name, value in PRESETS[preset].items() if isinstance(value, bool)}
    settings = TrainSettings.model_validate({"preset": preset, "out": "runs/mine", **turned})
    assert parse(TrainSettings, shlex.split(train_command(settings))[2:], command="charstream train") == settings


def test_both_ways_to_the_command_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        charstream(["train", "--help"])
    module = [sys.executable, "-m", "models.train", "--help"]
    assert subprocess.run(module, capture_output=True, text=True, check=True).stdout == capsys.readouterr().out


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_the_best_weights_are_those_of_one_go_if_the_run_dies_while_it_keeps_them(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("--steps", "60", name="whole")
    save_last, count = Run._save_last, itertools.count()

    def dies(run: Run) -> None:
        if next(count) == 8:
            raise KeyboardInterrupt
        save_last(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_save_last", dies)
        with pytest.raises(KeyboardInterrupt):
            train("--steps", "60", name="dead")
    assert main(["--out", str(tmp_path / "dead"), "--resume"]) == 0
    (first, one), (second, other) = (read(tmp_path / name / "best.json") for name in ("whole", "dead"))
    assert first.training.steps == second.training.steps
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_weights_are_validated_twice(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    """It would use up patience. That the characters end the run, and not the minutes, is said."""
    run = train("--minutes", "10", "--characters", "2560", "--patience", "1")
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    steps = [line["step"] for line in lines if "validation" in line]
    assert len(steps) > 2
    assert steps == sorted(set(steps))
    assert "--characters 2560 ends the run after 20 steps, before --minutes 10 would" in capsys.readouterr().err


def test_what_is_never_read_of_a_text_is_said(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train("--steps", "1", "--batch", "8", "--sequence", "1200")
    said = capsys.readouterr().err
    assert "of the training text fill no window" in said
    assert "are few, and will be learnt by heart" in said
