"""Variants are compared on equal terms, and no finished one is trained twice."""

import json
import shlex
from pathlib import Path
from typing import get_args

import pytest

from charstream.settings import parse
from models.data.corpus import open_corpus
from models.experiments.compare import main, train_variant
from models.experiments.compare_figure import compare_figure
from models.experiments.parameter_count import hidden_for, parameters_of
from models.experiments.settings import CompareSettings
from models.experiments.variants import VariantResult, variants
from models.experiments.vary import variant
from models.network.config import Activation, Cell, Form
from models.training.settings import TrainSettings, train_command
from tests.models.conftest import SMALL
from tests.models.reporting.test_plot import PNG, full_disk, of_bytes, run_of

VOCAB = 30
MODELS = [{"cell": cell} for cell in get_args(Cell)] + [
    {"cell": "rnn", "activation": activation, "form": form}
    for activation in get_args(Activation)
    for form in get_args(Form)
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: "-".join(model.values()))
def test_every_kind_of_model_gets_as_many_parameters(model: dict[str, str]) -> None:
    yardstick = parameters_of(TrainSettings(out=Path("run"), layers=2, hidden=64, embedding=16), VOCAB)
    for layers in (1, 4):
        settings = TrainSettings.model_validate({"out": "run", "layers": layers, "embedding": 16, **model})
        sized = variant(settings, {"hidden": hidden_for(settings, VOCAB, yardstick)}, settings.out)
        assert parameters_of(sized, VOCAB) == pytest.approx(yardstick, rel=0.02)


def test_it_tables_and_draws_the_variants_and_trains_none_twice(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compared"
    varied = ("--vary", "layers=1,2", "--vary", "cell=rnn,gru")
    argv = ["--data", str(verse), "--out", str(out), *SMALL, "--steps", "25", *varied]
    assert main([*argv, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["changes"] for row in rows] == [
        {"layers": layers, "cell": cell} for layers in (1, 2) for cell in ("rnn", "gru")
    ]
    parameters = [row["parameters"] for row in rows]
    assert max(parameters) < 1.1 * min(parameters)
    assert {row["steps"] for row in rows} == {25}
    assert all(0 < row["validation_nats"] < 3.2 for row in rows)
    assert (out / "compare.png").read_bytes().startswith(PNG)

    finished = Path(rows[0]["run"]) / "metrics.jsonl"
    before = finished.read_bytes()
    (Path(rows[2]["run"]) / "compared.json").write_text("[]")
    (Path(rows[3]["run"]) / "compared.json").unlink()
    assert main(["--out", str(out), "--resume", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert finished.read_bytes() == before
    assert [row["validation_nats"] for row in again] == [row["validation_nats"] for row in rows]


def test_what_does_not_go_together_is_left_out_with_a_reason(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--data", str(verse), "--out", str(tmp_path / "compared"), "--vary", "cell=rnn,lstm"]
    settings = parse(CompareSettings, [*argv, "--vary", "activation=tanh,relu"], command="test")
    assert [list(one.changes.values()) for one in variants(settings)] == [
        ["rnn", "tanh"],
        ["rnn", "relu"],
        ["lstm", "tanh"],
    ]
    assert "left out: cell lstm, activation relu: only the cell rnn has a choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "--vary is missing"),
        (["--vary", "layers=2"], "there is nothing to compare"),
        (["--vary", "hidden=8,16"], "--equal parameters chooses --hidden"),
        (["--vary", "layers=1,2", "--equal", "time"], "--equal time needs --minutes"),
        (["--vary", "layers=1,2", "--equal", "steps"], "--equal steps needs --steps"),
        (["--vary", "layers=1,two"], "layers=two: input should be a valid integer"),
        (["--vary", "layers=1", "--vary", "layers=2,3"], "--vary layers=... is given twice"),
        (["--vary", "layers=1,2,1"], "layers=1,2,1: a value is given twice"),
        (["--vary", "vocabulary=characters,bytes"], "a loss per byte and one per character cannot be compared"),
        (["--vary", "split=1,0.9"], "losses on different validation parts cannot be compared"),
    ],
)
def test_a_comparison_that_cannot_be_is_one_line(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    out = tmp_path / "compared"
    with pytest.raises(SystemExit) as end:
        main(["--data", str(verse), "--out", str(out), *flags])
    assert end.value.code == 2
    assert reason in capsys.readouterr().err
    assert not out.exists()


def test_what_is_compared_of_bytes_is_said_to_be_of_bytes(tmp_path: Path) -> None:
    run = of_bytes(run_of(tmp_path / "run"))
    one = VariantResult({"layers": 1}, str(run), 8, 1234, 400, 40.0, 1280.0, 1.5, 1.75, "byte")
    losses, curves = compare_figure([one], "characters").axes[:2]
    assert losses.get_ylabel() == "loss (nats per byte)"
    assert curves.get_ylabel() == "validation loss, a sample (nats per byte)"
    assert curves.get_xlabel() == "bytes trained on"
    assert one.to_json()["bits_per_byte"] == one.bits


def test_variants_that_begin_with_other_weights_have_folders_of_their_own(verse: Path, tmp_path: Path) -> None:
    argv = ["--data", str(verse), "--out", str(tmp_path / "compared"), "--equal", "steps", "--steps", "1"]
    settings = parse(CompareSettings, [*argv, "--vary", "init_from=runs/a,runs-a"], command="test")
    first, second = variants(settings)
    assert (first.changes, second.changes) == ({"init_from": "runs/a"}, {"init_from": "runs-a"})
    assert first.settings.init_from == Path("runs/a")
    assert first.settings.out != second.settings.out
    assert first.settings.out.parent == second.settings.out.parent


def test_a_full_disk_names_the_variant_s_folder(verse: Path, tmp_path: Path) -> None:
    argv = ["--data", str(verse), "--out", str(tmp_path / "compared"), *SMALL, "--equal", "steps", "--steps", "1"]
    one = variants(parse(CompareSettings, [*argv, "--vary", "layers=1,2"], command="test"))[0]
    open_corpus(str(verse))  # into the cache
    with full_disk(), pytest.raises(OSError) as error:  # noqa: PT011
        train_variant(one)
    assert Path(error.value.filename).is_relative_to(one.settings.out)


@pytest.mark.parametrize(
    "flags",
    [
        "--preset demo --hidden 17",
        "--preset min-char-rnn --steps 5 --clip-value 0",
        "--cell rnn --activation maxout --form pre --norm batch --residual --learning-rate 1.23456789e-3",
        "--data 'a file.txt' --minutes 1.5 --init-from runs/one --seed 3",
    ],
)
def test_the_command_of_settings_gives_the_same_settings(flags: str) -> None:
    settings = parse(TrainSettings, [*shlex.split(flags), "--out", "run"], command="test")
    command = shlex.split(train_command(settings))
    assert command[:2] == ["charstream", "train"]
    assert parse(TrainSettings, command[2:], command="test") == settings
