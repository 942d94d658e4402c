"""The page tells all of a run, needs no network, and never ends a run."""

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from models.reporting.report import main, make_report, write_report
from models.reporting.style import figure, png
from tests.models.reporting.test_plot import PNG, damage, of_bytes, run_of


class Page(HTMLParser):
    """What a browser would load, and the text that it would show."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(train: Callable[..., Path]) -> Page:
    run = train("--steps", "60", "--learning-rate", "0.01", "--clip-norm", "0.5")
    return Page(make_report(run))


def test_it_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = Page(make_report(run_of(tmp_path / "run")))
    assert page.sources
    for source in page.sources:
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(PNG)


def test_it_tells_the_configuration_the_evaluation_and_the_command(page: Page) -> None:
    assert re.search(
        r"LSTM, 1 x 32 units; [\d,]+ parameters; trained on verse.txt; 60 steps, 7,680 characters", page.text
    )
    assert "validation, all of it, by the best checkpoint" in page.text
    origin = r"charstream report, 20\d\d-\d\d-\d\d \d\d:\d\d UTC; charstream.*, Python 3.*, torch 2.*; .*, \d+ cores"
    assert re.search(origin, page.text)
    command = next(line for line in page.text.splitlines() if "charstream train" in line)
    for flag in ("--hidden 32", "--clip-norm 0.5", "--learning-rate 0.01", "--steps 60", "--batch 8"):
        assert flag in command


def test_it_shows_what_the_model_wrote_untrained_and_at_the_end(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 400, "sample": "<script>alert(1)</script> & end"}) + "\n")
    text = Page(make_report(run)).text
    assert "before trainingxq" in text
    assert "after 400 steps, 51,200 characters<script>alert(1)</script> & end" in text


def test_it_shows_the_findings_of_the_checks_and_their_plots(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    before = len(Page(make_report(run)).sources)
    folder = run / "check"
    folder.mkdir()
    (folder / "loss.png").write_bytes(png(figure()[0]))
    finding = {"verdict": "warning", "text": "the loss is 5.1, above ln V = 4.17"}
    check = {"name": "loss", "title": "First loss", "verdict": "warning", "findings": [finding], "plot": "loss.png"}
    (folder / "check.json").write_text(json.dumps({"checks": [check]}))
    page = Page(make_report(run))
    assert "First loss" in page.text
    assert "warningthe loss is 5.1, above ln V = 4.17" in page.text
    assert len(page.sources) == before + 1


FINDING = {"verdict": "ok", "text": "fine"}
CHECK = {"title": "First loss", "findings": [FINDING], "plot": None}


@pytest.mark.parametrize(
    "checks",
    [
        [],
        5,
        {"checks": 5},
        {"checks": [{}]},
        {"checks": [{**CHECK, "findings": [{}]}]},
        {"checks": [{**CHECK, "plot": 5}]},
    ],
)
def test_damaged_checks_are_left_out(tmp_path: Path, checks: object) -> None:
    run = run_of(tmp_path / "run")
    (run / "check").mkdir()
    (run / "check" / "check.json").write_text(json.dumps(checks))
    assert "Checks" not in Page(make_report(run)).text


def test_a_plot_outside_of_the_folder_of_checks_is_not_shown(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", steps=0)
    (run / "check").mkdir()
    (tmp_path / "secret.png").write_bytes(png(figure()[0]))
    checks = {"checks": [{**CHECK, "plot": "../../secret.png"}]}
    (run / "check" / "check.json").write_text(json.dumps(checks))
    page = Page(make_report(run))
    assert "First loss" in page.text
    assert not page.sources


def test_a_run_without_a_loss_has_a_page_without_its_figure(tmp_path: Path) -> None:
    page = Page(make_report(run_of(tmp_path / "run", steps=0)))
    assert "before trainingxq" in page.text
    assert not page.sources


def test_a_loss_beyond_every_perplexity_is_shown(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", steps=0)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 25, "loss": 1000.0}\n')
    assert "1000.00001442.6950inf" in Page(make_report(run)).text


def test_it_says_bytes_of_a_run_of_bytes_and_survives_damage(tmp_path: Path) -> None:
    run = of_bytes(run_of(tmp_path / "run"))
    damage(run)
    text = Page(make_report(run)).text
    assert "loss per byte" in text
    assert "400 steps, 51,200 bytes" in text


def test_the_command_prints_where_the_page_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run")
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path)])
    assert end.value.code == 2


def test_a_page_that_cannot_be_written_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run")
    (run / "report.html").mkdir()
    assert write_report(run) is None
    assert "report.html could not be written" in capsys.readouterr().err
