"""`charstream advise`: a command that can be typed, figures from the project's runs, and what they have not seen."""

import json
import math
import random
import shlex
from pathlib import Path

import pytest

from charstream.settings import parse
from models.advice.command import main
from models.advice.known_runs import KNOWN, REFERENCE_PACKED, expect, most_readings
from models.advice.text_facts import look_at_text
from models.data.corpus import open_corpus
from models.training.settings import TrainSettings


def test_its_command_trains_what_it_says(verse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a small text it asks for fewer streams, at most as many readings as there were, and says that it is small."""
    assert main(["--data", str(verse), "--minutes", "60", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {one["preset"] for one in said["presets"]} == set(KNOWN)
    best = min(said["presets"], key=lambda one: one["nats"])
    words = shlex.split(said["command"])
    assert words[:2] == ["charstream", "train"]
    settings = parse(TrainSettings, words[2:], command="charstream train")
    training = said["text"]["training"]
    readings = {preset: most_readings(preset) for preset in KNOWN}
    assert (settings.preset, settings.minutes) == (best["preset"], 60)
    assert settings.characters == int(readings[settings.preset] * training)
    assert settings.batch * settings.sequence * 4 <= training
    assert best["low"] < best["nats"] < best["high"]
    assert all(one["characters"] <= readings[one["preset"]] * training for one in said["presets"])
    assert all(one["minutes"] <= 60.01 for one in said["presets"])

    assert main(["--data", str(verse), "--minutes", "60"]) == 0
    lines = capsys.readouterr().out
    assert said["command"] in lines
    assert "will be learnt by heart" in lines
    assert "lines that come again" in lines


def test_the_text_is_looked_at(tmp_path: Path) -> None:
    letters = "".join(random.Random(0).choices("abcdefgh", k=50_000))
    (tmp_path / "random.txt").write_text(letters)
    (tmp_path / "again.txt").write_text("A line of more than twenty characters.\n" * 1000)
    random_facts, again = (look_at_text(open_corpus(str(tmp_path / name))) for name in ("random.txt", "again.txt"))
    assert random_facts.packed == pytest.approx(math.log(8), rel=0.05)
    assert random_facts.repeated == 0
    assert again.repeated > 0.9
    assert again.packed < 0.1
    assert (again.symbols, again.training) == (39_000, 35_100)


@pytest.mark.parametrize("preset", KNOWN)
def test_the_runs_are_expected_as_they_were(preset: str) -> None:
    for run in KNOWN[preset]:
        found = expect(preset, run.characters, REFERENCE_PACKED)
        assert found.nats == pytest.approx(run.nats, abs=1e-6)
        assert found.low < run.nats < found.high
        assert not found.is_beyond
    last = KNOWN[preset][-1]
    far = expect(preset, 1000 * last.characters, REFERENCE_PACKED)
    assert far == expect(preset, 10_000 * last.characters, REFERENCE_PACKED)
    assert far.is_beyond
    assert last.nats * 0.9 < far.nats <= last.nats
    hard = expect(preset, last.characters, 2 * REFERENCE_PACKED)
    assert hard.nats == pytest.approx(2 * last.nats)
    assert hard.high - hard.nats > 5 * (expect(preset, last.characters, REFERENCE_PACKED).high - last.nats)


@pytest.mark.parametrize(
    ("preset", "characters", "packed", "nats"),
    [
        # 54,000 characters to train on, the beginning of tinyshakespeare, read three and five times.
        ("demo", 161_792, 1.94, 1.8897),
        ("tiny", 268_288, 1.94, 1.7071),
        # In steps of 512 characters; with 512 units in the preset's own steps 1.83.
        ("shakespeare", 500_000, REFERENCE_PACKED, 1.7430),
        ("shakespeare", 500_000, REFERENCE_PACKED, 1.83),
    ],
)
def test_shorter_runs_end_higher_and_are_less_certain(
    preset: str, characters: float, packed: float, nats: float
) -> None:
    found, shorter = (expect(preset, count, packed) for count in (characters, characters / 10))
    assert found.low < nats < found.high
    assert found.is_beyond
    assert shorter.nats > found.nats
    assert shorter.high - shorter.low > 1.3 * (found.high - found.low)


def test_nobody_expects_more_than_guessing_loses(tmp_path: Path) -> None:
    (tmp_path / "hello.txt").write_text("hello")
    facts = look_at_text(open_corpus(str(tmp_path / "hello.txt")))
    assert facts.packed == pytest.approx(math.log(4))
    found = expect("demo", 12, 45.47, most=math.log(4))
    assert found.low <= found.nats == found.high == math.log(4)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(("--data", "nothing.txt"), "no such file"), (("--data", "x", "--minutes", "0"), "--minutes"), ((), "--data")],
)
def test_wrong_usage_is_one_line(flags: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(flags)
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
