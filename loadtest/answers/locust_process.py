"""One run of Locust, in a process of its own."""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from client.commands.common import TOKEN, Tls
from loadtest.measures.document import Document, read_document
from loadtest.settings import LoadtestSettings, Recording, Scenario, Thresholds, to_flags

__all__ = ["RunFailed", "locust_command", "locust_environment", "process_count", "run_locust"]

LOCUSTFILE = Path(__file__).parents[1] / "locustfile.py"
SPAWN_RATE = 100  # users per second: the most that Locust doesn't warn of
MOST_PROCESSES = 8


class RunFailed(Exception):
    """A run left no result; Locust's words are on stderr."""


def process_count(settings: LoadtestSettings) -> int:
    """Return how many processes make the load: by default one for two cores, but none without a user."""
    count = settings.processes or max(1, min(MOST_PROCESSES, (os.cpu_count() or 1) // 2))
    return count if settings.is_open else min(count, settings.users)


def locust_command(settings: LoadtestSettings, seconds: float) -> list[str]:
    """Return the command of a run. Where streams begin by the clock, each process has one user, who does not count."""
    processes = process_count(settings)
    users = processes if settings.is_open else settings.users
    # Without its log setup, Locust says no more than warnings: the table is the locustfile's.
    command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--skip-log-setup"]
    command += ["--host", ",".join(settings.host), "--users", str(users), "--run-time", f"{math.ceil(seconds)}s"]
    command += ["--spawn-rate", str(min(users, SPAWN_RATE))]
    if processes > 1:
        command += ["--processes", str(processes)]
    return [*command, *(flag for part in (Tls, Scenario, Thresholds, Recording) for flag in to_flags(settings, part))]


def locust_environment(settings: LoadtestSettings) -> Mapping[str, str] | None:
    token = settings.token()
    return {**os.environ, TOKEN: token} if token else None


def run_locust(settings: LoadtestSettings, seconds: float) -> Document:
    """Run the load once, in silence; return the document of the run. Raises RunFailed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = locust_command(settings.model_copy(update={"result": file}), seconds)
        done = subprocess.run(
            command, env=locust_environment(settings), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if not file.exists():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise RunFailed(f"the run left no result, exit code {done.returncode}: {last}")
        run: Document = read_document(file)["runs"][0]
    return run
