"""The demo goes its whole way with any text, or says at once what to do."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from charstream.demo import _compare_with_pretrained, _prompt, main
from tests.forked import forking_script

# The shortest time in which training begins and ends on a busy machine.
SMALL = ("--minutes", "0.5", "--users", "2", "--seconds", "1")
# A command as the demo starts it, but for its training, which ends after some steps, and its load test, which measures
# this machine for a moment and is no great load.
SHORTENED = """
import sys
from charstream.__main__ import main
if "--minutes" in sys.argv:
    place = sys.argv.index("--minutes")
    sys.argv[place : place + 2] = ["--steps", "30"]
if "--users" in sys.argv:
    sys.argv += ["--null-seconds", "0.5", "--wait", "0.1"]
sys.exit(main())
"""
SECONDS = 300


def demo(data: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "charstream", "demo", "--data", str(data), "--folder", str(data.parent), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)


@pytest.mark.slow
def test_a_short_text_of_one_sign_goes_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It has no capital, no letter and no line; its prompt looks like a flag; and it fills a few streams only."""
    (tmp_path / "text.txt").write_text("-" * 300)
    monkeypatch.setattr("charstream.demo._charstream", lambda command: [str(tmp_path / "command"), command])
    with forking_script(tmp_path / "command", "-c", SHORTENED):
        assert main(["--data", str(tmp_path / "text.txt"), "--folder", str(tmp_path), *SMALL]) == 0
    out = capfd.readouterr().out
    assert "--minutes 0.5 --out" in out
    assert "\n" + "-" * 524 in out  # the prompt, and 500 characters
    assert ", 0 failed, " in out
    assert "-- ------------------------\n" in out.partition("To go on:")[2]


def test_the_model_that_comes_with_charstream_goes_on_with_the_prompt(capfd: pytest.CaptureFixture[str]) -> None:
    """It is served and read as the demo's own, by the commands that the demo shows."""
    _compare_with_pretrained("chiefest of them too. If")
    said, log = capfd.readouterr()
    assert "$ charstream serve --pretrained --port 0" in said
    assert re.search(r"^chiefest of them too\. If[^\n]", said, re.MULTILINE)
    assert "\nshakespeare: gru 1x" in said
    assert "length: 500 characters" in log


def test_a_prompt_that_means_standard_input_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"training": {"prompts": ["-", "--"]}}))
    assert _prompt(tmp_path) == ""


@pytest.mark.parametrize("text", ["", "a", "ab"])
def test_a_text_without_anything_to_train_on_is_refused_before_training(tmp_path: Path, text: str) -> None:
    (tmp_path / "text.txt").write_text(text)
    done = demo(tmp_path / "text.txt")
    assert done.returncode == 2
    assert str(tmp_path / "text.txt") in done.stderr
    assert re.search("give a (longer )?text, of a few thousand characters", done.stderr)
    assert "charstream train" not in done.stdout
    assert "Traceback" not in done.stderr
