"""Two results: better, worse or undecided; where a sweep saturates."""

from pathlib import Path
from typing import Any

import pytest

from loadtest.__main__ import main
from loadtest.answers.compare import compare_figures
from loadtest.answers.saturation import is_past_the_peak, is_saturated, knee
from loadtest.answers.sweep import parse_loads
from loadtest.measures.document import document, run_document, write_document
from loadtest.measures.measures import Measures
from loadtest.measures.objectives import Objectives
from loadtest.measures.record import StreamRecord


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([100, 101, 99], [90, 91, 89], "better"),
        ([100, 101, 99], [110, 111, 112], "worse"),
        ([100, 130, 80], [101, 90, 125], "undecided"),
        ([100], [50], "undecided"),  # one run on each side tells nothing of chance
        ([0.0, 1.0], [1.0, 1.0], "undecided"),
    ],
)
def test_a_difference_is_told_from_chance(first: list[float], second: list[float], verdict: str) -> None:
    assert compare_figures(first, second, more_is_better=False).verdict == verdict


def test_the_interval_is_welchs() -> None:
    found = compare_figures([10.0, 11.0, 12.0], [20.0, 21.0, 25.0], more_is_better=True)
    assert found.ratio == pytest.approx(1.9962, abs=1e-3)
    assert found.low < found.ratio < found.high
    assert found.verdict == "better"


def run(ms: float, chars: int = 1000, **facts: Any) -> dict[str, Any]:
    measures = Measures(Objectives())
    measures.seconds = 1.0
    measures.add_message(0.0, chars)
    for number in range(100):
        measures.add(StreamRecord("text", 0.0, 0.0, [ms / 1000 * (1 + number / 500)], 1, ms / 250, "finished"))
    return run_document(measures, checks={}, notes=[], users=8, **facts)


def test_the_command_fails_where_the_second_is_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, times in (("a", (10, 10.1, 10.2)), ("b", (14, 14.1, 14.2))):
        write_document(tmp_path / name, document("run", {}, [run(ms) for ms in times], {}))
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "worse" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "b"), str(tmp_path / "a"), "--figure", "first.p99"]) == 0
    assert "better" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["nothing", "a"], ["a", "a", "--figure", "first.p98"]])
def test_what_cannot_be_compared_is_wrong_usage(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path / "a", document("run", {}, [run(5)], {}))
    with pytest.raises(SystemExit) as ended:
        main(["compare", *words])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "loads"),
    [
        ("1,2,4", [1, 2, 4]),
        ("1,2,4,...,64", [1, 2, 4, 8, 16, 32, 64]),
        ("8,12,16,...,24", [8, 12, 16, 20, 24]),
        ("1,4,…,100", [1, 4, 16, 64, 100]),
        ("0.5", [0.5]),
    ],
)
def test_loads_go_on_as_they_begin(text: str, loads: list[float]) -> None:
    assert parse_loads(text) == loads


@pytest.mark.parametrize("text", ["", "1,...,8", "1,2,...", "4,2", "a,b", "1,2,...,8,16", "0,1"])
def test_what_is_no_list_of_loads_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="LOADS"):
        parse_loads(text)


def test_the_knee_is_before_the_latency_takes_over() -> None:
    rates = [(1, 100, 10), (2, 199, 10), (4, 390, 11), (8, 700, 12), (16, 900, 19), (32, 920, 40), (64, 925, 90)]
    runs = [run(ms, chars, load=load) for load, chars, ms in rates]
    assert knee(runs)["load"] == 8
    assert not is_past_the_peak(runs[:5])
    assert is_past_the_peak(runs)


def test_more_that_comes_than_is_done_is_saturated() -> None:
    steady = [{"at": at, "streams": 10 + at % 2, "first_p50": 20.0 + at % 3} for at in range(20)]
    growing = [{"at": at, "streams": 10 + 3 * at + at % 2, "first_p50": 20.0 * (1 + at) + at % 3} for at in range(20)]
    assert (is_saturated(steady), is_saturated(growing), is_saturated(growing[:4])) == (False, True, False)
