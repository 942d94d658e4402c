"""Mixes and traces from files."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.scenarios.mix import STANDARD, Mix
from loadtest.scenarios.trace import read_trace
from loadtest.settings import Scenario

JSON_LINE = (
    '{"time": "2026-11-29T14:00:0%d.500Z", "level": "INFO", "message": "call", "method": "%s", "status": "OK", '
    '"generated_chars": %d, "forced_chars": 12, "seconds": 0.5}\n'
)
TEXT_LINE = (
    "2026-11-29 14:00:0%d,500 INFO charstream.calls: call id=1 method=%s peer=ipv4:127.0.0.1:1 status=OK "
    "generated_chars=%d forced_chars=12 seconds=0.5\n"
)


def test_the_standard_mix_has_every_kind_of_call_in_proportion() -> None:
    mix, chance = Mix.read(STANDARD), random.Random(0)
    calls = [mix.draw(chance, ["abc ", "de"], number, number) for number in range(5000)]
    assert {call.action for call in calls} == {"generate", "score", "continuations", "resume", "cancel", "slow"}
    counts = Counter(call.kind for call in calls)
    assert counts["short"] == pytest.approx(2000, rel=0.1)
    assert all(500 <= len(call.prompt) <= 2000 for call in calls if call.kind == "long prompt")
    again = random.Random(0)
    assert [mix.draw(again, ["abc ", "de"], number, number) for number in range(5000)] == calls


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("call = 3", "call"),
        ("[[call]]\nweight = 2", "name"),
        ('[[call]]\nname = "a"\naction = "sing"', "action"),
        ('[[call]]\nname = "a"\nmax_chars = 0', "max_chars"),
        ("[[call", "mix.toml"),
    ],
)
def test_a_wrong_mix_is_refused_with_its_place(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "mix.toml").write_text(text)
    with pytest.raises(ValueError, match=f"--mix .*{reason}"):
        Scenario(mix=tmp_path / "mix.toml")


def test_an_open_loop_needs_its_rate_and_a_replay_its_trace() -> None:
    for scenario, flag in (("open", "--rate"), ("replay", "--trace")):
        with pytest.raises(ValueError, match=flag):
            Scenario(scenario=scenario)  # type: ignore[arg-type]


@pytest.mark.parametrize("line", [JSON_LINE, TEXT_LINE])
def test_a_servers_log_becomes_a_trace(tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_text(line % (3, "Generate", 80) + line % (2, "Score", 0) + "other\n" + line % (1, "Generate", 200))
    assert main(["trace", str(log)]) == 0
    (tmp_path / "trace").write_text(said := capsys.readouterr().out)
    assert [json.loads(each) for each in said.splitlines()] == [
        {"time": 0.0, "prompt_chars": 12, "max_chars": 200},
        {"time": 2.0, "prompt_chars": 12, "max_chars": 80},
    ]
    assert [call.max_chars for call in read_trace(tmp_path / "trace")] == [200, 80]


def test_a_wrong_trace_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text('{"time": 0, "max_chars": 5}\n{"time": 1}\n')
    with pytest.raises(ValueError, match="line 2"):
        Scenario(scenario="replay", trace=tmp_path / "trace")
