"""`charstream demo`: the whole way from a text to a load test in a few minutes, with the commands for each step.

Each step is a command in a process of its own, as a person would type it.
"""

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from charstream.settings import Settings, fail, parse

COMMAND = "charstream demo"
DRAIN_SECONDS = 30


class DemoSettings(Settings):
    """All of it in a few minutes: a corpus, a model, its bundle, a server, a text that streams, and a load test."""

    folder: Path = Field(Path(), description="where runs/demo and bundles/demo go")
    data: str = Field("shakespeare", description="the text to train on, as for charstream train")
    minutes: float = Field(2, gt=0, description="minutes of training")
    users: int = Field(16, ge=1, description="streams of the load test")
    seconds: int = Field(10, ge=1, description="seconds of the load test")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(DemoSettings, argv, command=COMMAND)
    begun = time.monotonic()
    run, bundle = settings.folder / "runs" / "demo", settings.folder / "bundles" / "demo"
    try:
        _step("The text", "data", settings.data)
        training = ("--data", settings.data, "--minutes", f"{settings.minutes:g}", "--out", str(run), "--overwrite")
        _step("A model learns it", "train", "--preset", "demo", *training)
        _step("To ONNX; does it compute the same?", "export", str(run), "--out", str(bundle), "--overwrite")
        with _server(bundle) as address:
            sampling = ("--max-chars", "500", "--temperature", "0.7", "--seed", "7", "--host", address)
            _step("A text streams", "stream", "ROMEO:\n", *sampling)
            load = ("--users", str(settings.users), "--seconds", str(settings.seconds), "--host", address)
            _step("Under load", "loadtest", *load)
    except subprocess.CalledProcessError as error:
        fail(COMMAND, f"stopped: the command above ended with exit code {error.returncode}", code=1)
    except KeyboardInterrupt:
        fail(COMMAND, "interrupted", code=130)
    _say(f"Done in {time.monotonic() - begun:.0f} s", _what_next(run, bundle))
    return 0


def _step(title: str, command: str, *arguments: str) -> None:
    """Show one command as one would type it, and run it. Raises CalledProcessError."""
    _say(title, f"$ charstream {shlex.join([command, *arguments])}")
    subprocess.run([*_charstream(command), *arguments], check=True)
    sys.stdout.write("\n")


@contextmanager
def _server(bundle: Path) -> Iterator[str]:
    """Start a server on a free port, yield its address, and drain it at the end."""
    _say("A server", f"$ charstream serve --models {bundle} --port 0 --no-log-calls")
    command = [*_charstream("serve"), "--models", str(bundle), "--port", "0", "--no-log-calls"]
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


def _what_next(run: Path, bundle: Path) -> str:
    return f"""
{run} holds the training run, {bundle} the bundle, whose card.md tells what it is. To go on:

  charstream serve --models {bundle.parent}
      in another terminal: charstream stream "JULIET:" --max-chars 400 --temperature 0.8
  charstream train --data FILE_OR_FOLDER_OR_URL --minutes 15 --out runs/mine
      then: charstream export runs/mine, and serve it beside the first
  charstream loadtest --users 32 --seconds 20 --max-first-char-p99 200
      exit code 1 where the deployment is slower

The commands are in .venv/bin; `charstream COMMAND --help` says what each one takes."""


if __name__ == "__main__":
    sys.exit(main())
