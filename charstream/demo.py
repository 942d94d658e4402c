"""`charstream demo`: the whole way from a text to a load test in a few minutes, with the commands for each step.

Each step is a command in a process of its own, as a person would type it.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from charstream.settings import Settings, fail, parse

COMMAND = "charstream demo"
DRAIN_SECONDS = 30
USAGE = 2  # exit code of what the user can correct
STREAMS, WINDOW = 16, 64  # --batch and --sequence of the preset demo
SAMPLING = ("--max-chars", "500", "--temperature", "0.7", "--seed", "7")
OF_THE_PRETRAINED = "shakespeare"  # the text on which the model that comes with charstream was trained


class DemoSettings(Settings):
    """All of it in a few minutes: a corpus, a model, its bundle, a server, a text that streams, and a load test."""

    stray_word: ClassVar = "the text is --data FILE"

    folder: Path = Field(Path(), description="where runs/demo and bundles/demo go")
    data: str = Field("shakespeare", description="the text to train on, as for charstream train")
    minutes: float = Field(2, gt=0, description="minutes of training")
    users: int = Field(16, ge=1, description="streams of the load test")
    seconds: int = Field(10, ge=1, description="seconds of the load test")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(DemoSettings, argv, command=COMMAND)
    begun = time.monotonic()
    if settings.data == "-" or Path(settings.data).is_fifo():
        fail(COMMAND, f"--data {settings.data}: several commands read the text: write it into a file first")
    run, bundle = settings.folder / "runs" / "demo", settings.folder / "bundles" / "demo"
    try:
        symbols = _training_symbols(_step("The text", "data", settings.data, captured=True))
        if symbols < 2:
            what = f"the part to train on has {symbols} character{'s' * (symbols != 1)}, 2 are the least"
            fail(COMMAND, f"--data {settings.data}: {what}: give a longer text, of a few thousand characters")
        training = ("--data", settings.data, "--minutes", f"{settings.minutes:g}", "--out", str(run), "--overwrite")
        _step("A model learns it", "train", "--preset", "demo", *training, *_batch(symbols))
        _step("To ONNX; does it compute the same?", "export", str(run), "--out", str(bundle), "--overwrite")
        prompt = _prompt(bundle)
        with _server("--models", str(bundle)) as address:
            _step("A text streams", "stream", *SAMPLING, "--host", address, *_last(prompt))
            load = ("--users", str(settings.users), "--seconds", str(settings.seconds), "--host", address)
            _step("Under load", "loadtest", *load)
        if settings.data == OF_THE_PRETRAINED:
            _compare_with_pretrained(prompt)
    except subprocess.CalledProcessError as error:
        wrong = error.returncode if error.returncode == USAGE else 1
        fail(COMMAND, f"stopped: the command above ended with exit code {error.returncode}", code=wrong)
    except KeyboardInterrupt:
        fail(COMMAND, "interrupted", code=130)
    _say(f"Done in {time.monotonic() - begun:.0f} s", _what_next(run, bundle, prompt))
    return 0


def _compare_with_pretrained(prompt: str) -> None:
    """Let the model that comes with charstream go on with the same prompt, which it was not trained on either."""
    with _server("--pretrained") as address:
        title = "The same beginning, by the model that comes with charstream"
        _step(title, "stream", *SAMPLING, "--host", address, *_last(prompt))
    _step("It was trained for longer", "pretrained", "list")


def _step(title: str, command: str, *arguments: str, captured: bool = False) -> str:
    """Show one command as one would type it, and run it. Return its stdout, if captured. Raises CalledProcessError."""
    _say(title, f"$ charstream {shlex.join([command, *arguments])}")
    pipe = subprocess.PIPE if captured else None
    said = subprocess.run([*_charstream(command), *arguments], check=True, stdout=pipe, text=True).stdout or ""
    sys.stdout.write(f"{said}\n")
    return said


def _training_symbols(said: str) -> int:
    """Return the length of the part to train on, as `charstream data` says it."""
    found = re.search(r"^training +([\d,]+)$", said, re.MULTILINE)
    return int(found[1].replace(",", "")) if found else 0


def _batch(symbols: int) -> tuple[str, ...]:
    """Return the flag for a text that is too short for the preset's streams, of a window each."""
    streams = max(1, (symbols - 1) // WINDOW)
    return () if streams >= STREAMS else ("--batch", str(streams))


def _prompt(bundle: Path) -> str:
    """Return the first of the prompts that came from the text; none for "-", which means standard input."""
    training = json.loads((bundle / "manifest.json").read_text("utf-8"))["training"]
    prompt = str(next(iter(training.get("prompts", [])), ""))
    return "" if prompt == "-" else prompt


def _last(prompt: str) -> tuple[str, ...]:
    """Return the arguments for a prompt: what begins with "-" is not to be taken for a flag."""
    return ("--", prompt) if prompt.startswith("-") else (prompt,)


@contextmanager
def _server(*models: str) -> Iterator[str]:
    """Start a server on a free port, yield its address, and drain it at the end; flags say what it serves."""
    flags = (*models, "--port", "0", "--no-log-calls")
    _say("A server", f"$ charstream serve {shlex.join(flags)}")
    command = [*_charstream("serve"), *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield _address(process, command)
        finally:
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=DRAIN_SECONDS)[1]
    _say("The server ends", rest.strip())


def _address(process: "subprocess.Popen[str]", command: list[str]) -> str:
    assert process.stderr
    for line in process.stderr:
        sys.stderr.write(line)
        if found := re.search(r"listening on (\S+)", line):
            return found.group(1)
    raise subprocess.CalledProcessError(process.wait(), command)


def _charstream(command: str) -> list[str]:
    return [sys.executable, "-m", "charstream", command]


def _say(title: str, text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}== {title}{plain}\n{text}", flush=True)


def _what_next(run: Path, bundle: Path, prompt: str) -> str:
    return f"""
{run} holds the training run, {bundle} the bundle, whose card.md tells what it is. To go on:

  charstream serve --models {bundle.parent}
      in another terminal: charstream stream --max-chars 400 --temperature 0.8 {shlex.join(_last(prompt))}
  charstream train --data FILE_OR_FOLDER_OR_URL --minutes 15 --out runs/mine
      then: charstream export runs/mine, and serve it beside the first
  charstream loadtest --users 32 --seconds 20 --max-first-char-p99 200
      exit code 1 where the deployment is slower

`. .venv/bin/activate` finds the commands; `charstream COMMAND --help` says what each one takes."""


if __name__ == "__main__":
    sys.exit(main())
