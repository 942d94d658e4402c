"""Two processes never train into one folder."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.training.checkpoint import CheckpointError, read

Train = Callable[..., Path]
# As a process that trains holds it, without the seconds that importing torch takes.
HOLDS = (
    "import fcntl, os, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); file.truncate(0); "
    "print(os.getpid(), file=file, end='', flush=True); print(flush=True); sys.stdin.read()"
)


@contextmanager
def _another(run: Path) -> Iterator[int]:
    """A process that holds the lock; killed at the end. Gives its pid."""
    command = [sys.executable, "-c", HOLDS, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.mark.parametrize("how", [(), ("--resume",), ("--steps", "2", "--overwrite")])
def test_a_folder_that_another_process_trains_into_is_left_alone(train: Train, how: tuple[str, ...]) -> None:
    run = train("--steps", "1")
    before = (run / "metrics.jsonl").read_bytes()
    with (
        _another(run) as pid,
        pytest.raises(CheckpointError, match=rf"another process trains into {run} \(pid {pid}\)"),
    ):
        train(*how)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_what_a_killed_process_held_is_free(train: Train) -> None:
    run = train("--steps", "1")
    with _another(run):
        pass
    train("--resume")
    train("--steps", "2", "--overwrite")
    assert read(run / "last.json")[0].progress.step == 2
