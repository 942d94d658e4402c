"""A search finds settings, goes on where it was left, and says how to train with the best."""

import itertools
import json
import math
import re
import shlex
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

import models.experiments.search
from charstream.settings import parse
from models.experiments.folder import begin_experiment
from models.experiments.search import Trials, main
from models.experiments.search_figure import search_figure
from models.experiments.settings import SearchSettings
from models.experiments.space import Choice, Interval, dimension
from models.experiments.vary import VaryError
from models.training.settings import TrainSettings
from tests.models.conftest import SMALL
from tests.models.reporting.test_plot import PNG

STEPS = ("--steps", "10")
SPACE = ("--space", "learning-rate=1e-4..3e-2", "--space", "hidden=8..16")


def flags(verse: Path, out: Path, *more: str) -> list[str]:
    return ["--data", str(verse), "--out", str(out), *SMALL, *STEPS, *SPACE, *more]


def results(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_tables_its_trials_and_goes_on_where_it_was_left(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "search"
    first = results(capsys, *flags(verse, out, "--trials", "2"))
    more = results(capsys, "--out", str(out), "--resume", "--trials", "3")
    assert [len(result["trials"]) for result in (first, more)] == [2, 3]
    assert {trial["trial"] for trial in more["trials"]} == {0, 1, 2}
    losses = [trial["validation_nats"] for trial in more["trials"]]
    assert losses == sorted(losses)
    for trial in more["trials"]:
        assert 1e-4 <= trial["settings"]["learning_rate"] <= 3e-2
        assert trial["settings"]["hidden"] in range(8, 17)
    assert (out / "search.png").read_bytes().startswith(PNG)
    assert json.loads((out / "results.json").read_text()) == more

    command = shlex.split(more["command"])
    assert command[:2] == ["charstream", "train"]
    settings = parse(TrainSettings, command[2:], command="test")
    assert (settings.batch, settings.steps, settings.data) == (8, 10, str(verse))
    assert {name: getattr(settings, name) for name in ("learning_rate", "hidden")} == more["trials"][0]["settings"]


def test_the_same_seed_tries_the_same_settings(verse: Path, tmp_path: Path) -> None:
    def drawn(out: str, seed: str) -> dict[str, float]:
        search = Trials(parse(SearchSettings, flags(verse, tmp_path / out, "--seed", seed), command="test"))
        trial = search._next()
        return {one.name: one.suggest(trial) for one in search.space}

    assert drawn("a", "1") == drawn("b", "1") != drawn("c", "2")


def test_a_random_search_looks_closer_around_the_best_in_its_second_half(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "search"
    more = ("--sampler", "random", "--trials", "3")
    space = ("--space", "learning_rate=1e-5..1e-1")
    argv = ["--data", str(verse), "--out", str(out), *SMALL, *STEPS, *space, *more]
    trials = {trial["trial"]: trial for trial in results(capsys, *argv)["trials"]}
    rates = [math.log10(trials[number]["settings"]["learning_rate"]) for number in range(3)]
    best_of_coarse = min((trials[number]["validation_nats"], rates[number]) for number in (0, 1))[1]
    assert abs(rates[2] - best_of_coarse) <= 1  # a quarter of four decades


def test_a_trial_that_diverges_is_given_up_and_the_search_goes_on(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ("--space", "learning_rate=1e30,1e-2")
    argv = ["--data", str(verse), "--out", str(tmp_path / "search"), *SMALL, *STEPS, *space]
    result = results(capsys, *argv, "--trials", "3")
    states = {trial["settings"]["learning_rate"]: trial["state"] for trial in result["trials"]}
    assert states == {1e-2: "complete", 1e30: "given up"}
    assert "--learning-rate 0.01" in result["command"]


def test_an_impossible_trial_is_given_up_and_the_search_goes_on(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(verse), "--out", str(tmp_path / "search"), *SMALL, "--steps", "1", "--trials", "3"]
    model = ["--cell", "rnn", "--activation", "maxout", "--form", "pre", "--space", "hidden=7,8"]
    capsys.readouterr()
    assert main([*flags, *model, "--json"]) == 0
    said, result = capsys.readouterr().err, json.loads((tmp_path / "search" / "results.json").read_text())
    states = {trial["settings"]["hidden"]: trial["state"] for trial in result["trials"]}
    assert states == {8: "complete", 7: "given up"}
    assert re.search(r"trial \d is given up: hidden 7: .* pools pairs of hidden units: 7 is odd", said)


def test_ten_impossible_trials_in_a_row_end_the_search_with_the_reason(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--data", str(verse), "--out", str(tmp_path / "search"), "--space", "batch=20000..40000"])
    assert end.value.code == 2
    *trials, last = (line for line in capsys.readouterr().err.splitlines() if "streams of" in line)
    assert len(trials) == 10
    assert last.startswith("charstream search: 10 trials in a row were impossible, the last one: the training part has")


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (["hidden=16..32", "hidden=8,9"], "--space hidden=... is given twice: give all of its values in one"),
        (["layers=1,1"], "layers=1,1: a value is given twice"),
        (["vocabulary=characters,bytes"], "a loss per byte and one per character cannot be compared"),
        (["activation=relu,sigmoid"], "only the cell rnn has a choice"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], space: list[str], reason: str
) -> None:
    out = tmp_path / "search"
    with pytest.raises(SystemExit) as end:
        main(["--data", str(verse), "--out", str(out), *(word for one in space for word in ("--space", one))])
    assert end.value.code == 2
    assert reason in capsys.readouterr().err
    assert not out.exists()


def test_what_goes_together_only_with_another_option_is_searched(verse: Path, tmp_path: Path) -> None:
    space = ("--space", "cell=gru,rnn", "--space", "form=pre,post")
    Trials(parse(SearchSettings, ["--data", str(verse), "--out", str(tmp_path), *space], command="test"))


def test_a_database_that_is_none_is_one_line(verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--data", str(verse), "--out", str(tmp_path), "--space", "layers=1,2"]
    begin_experiment(parse(SearchSettings, argv, command="test"))
    (tmp_path / "search.db").write_text("no database, but long enough to look like something else" * 10)
    with pytest.raises(SystemExit) as end:
        main(["--out", str(tmp_path), "--resume"])
    assert end.value.code == 1
    assert capsys.readouterr().err == f"charstream search: {tmp_path}/search.db: file is not a database\n"


@pytest.mark.parametrize("rates", [(2e-3, 1e-2), (3e-4, 3e-2), (1e-5, 1.0)])
def test_a_narrow_search_has_numbers_that_do_not_cover_each_other(rates: tuple[float, float]) -> None:
    low, high = rates
    interval = dimension(f"learning_rate={low}..{10 * low if high < 10 * low else high}")
    study = optuna.create_study()
    for value in rates:
        spread = FloatDistribution(low, high, log=True)
        study.add_trial(create_trial(value=2.0, params={interval.name: value}, distributions={interval.name: spread}))
    drawn = search_figure(study.trials, [interval], "byte")
    drawn.draw_without_rendering()
    axis = drawn.axes[1].xaxis
    shown = [label for label in axis.get_ticklabels(which="both") if label.get_text()]
    ends = [label.get_window_extent() for label in shown if label.get_window_extent().width]
    ends.sort(key=lambda box: box.x0)
    assert len(ends) >= 2
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(ends))
    assert drawn.axes[0].get_ylabel() == "validation loss (nats per byte)"


def test_a_trial_that_is_interrupted_does_not_count(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "search"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(models.experiments.search, "train_model", interrupted)
        with pytest.raises(SystemExit) as end:
            main(flags(verse, out, "--trials", "1"))
    assert end.value.code == 130
    again = capsys.readouterr().err.splitlines()[-1].partition("go on with: ")[2]
    result = results(capsys, *shlex.split(again)[2:])
    assert [trial["trial"] for trial in result["trials"]] == [1]


def test_intervals_and_choices_as_they_are_written() -> None:
    assert dimension("learning-rate=1e-4..1e-2") == Interval("learning_rate", 1e-4, 1e-2, log=True, whole=False)
    assert dimension("dropout=0..0.6") == Interval("dropout", 0.0, 0.6, log=False, whole=False)
    assert dimension("hidden=128..512") == Interval("hidden", 128, 512, log=False, whole=True)
    assert dimension("cell=rnn,lstm") == Choice("cell", ("rnn", "lstm"))
    assert dimension("init_from=runs/a,b") == Choice("init_from", ("runs/a", "b"))
    assert dimension("residual=true,false") == Choice("residual", (True, False))
    assert Interval("x", 1, 10_000, log=True, whole=False).narrow([9_000]).low == pytest.approx(1000)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("learning_rat=1..2", "the nearest is learning_rate"),
        ("data=a,b", "data is no option that can vary"),
        ("distill_from=a,b", "distill_from is no option that can vary"),
        ("hidden", "expected NAME=VALUES"),
        ("cell=rnn..lstm", "give its values with commas"),
        ("cell=rnn,mlp", "input should be 'rnn', 'gru' or 'lstm'"),
        ("hidden=64..32", "64 is not below 32"),
        ("layers=1..99", "less than or equal to 16"),
    ],
)
def test_a_space_that_cannot_be_is_one_line(text: str, reason: str) -> None:
    with pytest.raises(VaryError, match=reason) as error:
        dimension(text)
    assert "\n" not in str(error.value)


def test_what_was_begun_otherwise_is_not_gone_on_with(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "search"
    assert main(flags(verse, out, "--trials", "1")) == 0
    for argv, reason in (
        (flags(verse, out), "is taken: go on with it by --resume, or replace it by --overwrite"),
        (["--out", str(out), "--resume", "--batch", "4"], "was begun with batch 8, not 4"),
        (["--out", str(tmp_path / "none"), "--resume"], "nothing to go on with there"),
        (flags(verse, tmp_path / "new", "--split", "1"), "leaves no validation part"),
    ):
        with pytest.raises(SystemExit) as end:
            main(argv)
        assert end.value.code == 2
        assert reason in capsys.readouterr().err
