"""The commands of README run as they are written, one after the other, as somebody types them after `make demo`.

Each is a process of its own, but forked from one with its imports done. That commands begin without that is shown by
tests/charstream/test_completion.py, whose script imports each of them, test_command.py and tests/test_dockerfile.py.
"""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from models.train import main as train
from tests.forked import forking_script

ROOT = Path(__file__).parents[1]
SECONDS = 120
# Beginnings of those that are not run here.
NOT_HERE = {
    "make setup": "takes minutes and the package index",
    "make demo": "takes minutes and the package index; of what it leaves, the others need runs/demo",
    "make test": "is this",
    "python3 -m venv": "needs PyTorch's package index",
    "charstream serve --host 0.0.0.0": "needs certificates",
    "CHARSTREAM_TOKEN=...": "needs other machines",
    "charstream loadtest compare": "compares two results, of which the second may be worse by chance",
    "kill -HUP PID": "PID stands for a number",
}
# Shorter ways, and one that needs no network.
INSTEAD = {
    "data shakespeare": "data text.txt",
    "check runs/mine": "check runs/mine --only loss --only reach",
    "--minutes 15": "--steps 20 --layers 1 --hidden 32 --batch 4 --sequence 32",
    "--users 32 --seconds 20 --max-first-char-p99 200": (
        "--users 2 --wait 0.1 --seconds 1 --null-seconds 0 --max-first-char-p99 20000"
    ),
    '--users 32 --goodput "first:200" --require "goodput>0.99" "first.p99<200"': (
        "--users 2 --wait 0.1 --seconds 1 --null-seconds 0 "
        '--goodput "first:20000" --require "goodput>0.5" "first.p99<20000"'
    ),
    "--first-p99 100 --gap-p99 50": (
        "--first-p99 20000 --gap-p99 20000 --most 1 --wait 0.1 --point-seconds 1 --null-seconds 0"
    ),
    "--users 32 --repeats 5": "--users 2 --wait 0.1 --seconds 1 --repeats 2 --null-seconds 0",
}
TEXT = "ROMEO.\nTo be, or not to be, that is the question.\n\n" * 100


def commands() -> list[str]:
    """Return the lines of all blocks that name no language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [line for language, block in blocks if not language for line in block.splitlines()]


def here(line: str) -> bool:
    return not line.startswith(tuple(NOT_HERE))


def shortened(line: str) -> str:
    for long, short in INSTEAD.items():
        line = line.replace(long, short)
    return line


def test_the_lists_of_exceptions_are_not_longer_than_need_be() -> None:
    lines = commands()
    for beginning in NOT_HERE:
        assert any(line.startswith(beginning) for line in lines), beginning
    for long in INSTEAD:
        assert any(long in line for line in filter(here, lines)), long


class Terminal:
    """A shell in a folder that looks as after `make demo`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.activation = folder, ":"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CHARSTREAM_PORT": str(self.port),
            "CHARSTREAM_ADDRESS": f"127.0.0.1:{self.port}",
        }
        self.scripts = folder / ".venv" / "bin"
        self.scripts.mkdir(parents=True)
        (self.scripts / "activate").write_text(f'PATH="{self.scripts}:$PATH"\n')
        (folder / "text.txt").write_text(TEXT)

    def run(self, line: str) -> None:
        """Run a line to its end; it has to succeed."""
        done = subprocess.run(
            ["bash", "-c", f"{self.activation}\n{line}"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"$ {line}\n{done.stdout}\n{done.stderr}"

    @contextmanager
    def running(self, line: str) -> Iterator[None]:
        """Run a line in the background; it is ready when its port is open, and ends well after Ctrl-C."""
        # A shell in the background would have what it starts ignore SIGINT.
        process = subprocess.Popen(
            ["bash", "-c", f"{self.activation}\nexec {line}"], cwd=self.folder, env=self.environment
        )
        try:
            end = time.monotonic() + SECONDS
            while not self._is_served():
                assert process.poll() is None, f"$ {line}"
                assert time.monotonic() < end, f"$ {line}"
                time.sleep(0.2)
            yield
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            process.wait()

    def _is_served(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.mark.slow
def test_every_command_runs_as_it_is_written(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    sizes = shortened("--minutes 15").split()
    assert train(["--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "runs" / "demo"), *sizes]) == 0
    with forking_script(terminal.scripts / "charstream", "-m", "charstream"), ExitStack() as served:
        for line in [shortened(line) for line in commands() if here(line)]:
            if line.startswith("charstream serve"):
                served.close()
                served.enter_context(terminal.running(line))
            else:
                follow(terminal, line)


def follow(terminal: Terminal, line: str) -> None:
    terminal.run(line)
    if line.startswith(". "):
        terminal.activation = line
