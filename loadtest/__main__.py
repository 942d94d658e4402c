"""`charstream loadtest`: run the locustfile headless, in a process of its own, and return its verdict."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from charstream.settings import fail, parse
from client.commands.common import TOKEN, Tls, connect, one_line_errors
from client.errors import Overloaded
from client.sync_client import Client
from loadtest.prompts import choose_prompts
from loadtest.settings import LoadtestSettings, Scenario, Thresholds, request_options, to_flags

__all__ = ["main"]

COMMAND = "charstream loadtest"
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
SPAWN_RATE = 100  # users per second: the most that Locust doesn't warn of
CONNECT_SECONDS = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 if the thresholds are kept, else 1; 2 for wrong usage, 130 after Ctrl-C."""
    settings = parse(LoadtestSettings, argv, command=COMMAND)
    if importlib.util.find_spec("locust") is None:
        fail(COMMAND, "needs locust, which the extra brings: pip install 'charstream[loadtest]'")
    try:
        if settings.report:
            settings.report.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(COMMAND, f"--report {settings.report}: {(error.strerror or str(error)).lower()}; name another folder")
    with one_line_errors(COMMAND, settings), connect(settings) as client:
        served = client.model(settings.model, timeout=CONNECT_SECONDS)
        settings = settings.model_copy(update={"prompt": settings.prompt or choose_prompts(served)})
        for prompt in settings.prompt:
            _try_request(client, settings, prompt)
    hosts, token = ", ".join(settings.host), settings.token()
    print(f"{settings.users} users for {settings.seconds} s at {hosts}: {served.name}", file=sys.stderr)
    return _run(_locust(settings), {**os.environ, TOKEN: token} if token else None)


def _try_request(client: Client, settings: LoadtestSettings, prompt: str) -> None:
    """Ask for the beginning of a text as the users will. Raises what the server says of a request that cannot work."""
    with suppress(Overloaded), client.stream(prompt, seed=0, **request_options(settings)) as stream:
        next(iter(stream), "")


def _locust(settings: LoadtestSettings) -> list[str]:
    # Without its log setup, Locust says no more than warnings: the table is the locustfile's.
    command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--skip-log-setup"]
    command += ["--host", ",".join(settings.host), "--users", str(settings.users), "--run-time", f"{settings.seconds}s"]
    command += ["--spawn-rate", str(min(settings.users, SPAWN_RATE))]
    if settings.report:
        command += ["--html", str(settings.report / "report.html"), "--csv", str(settings.report / "stats")]
    return [*command, *(flag for part in (Tls, Scenario, Thresholds) for flag in to_flags(settings, part))]


def _run(command: Sequence[str], environment: Mapping[str, str] | None) -> int:
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal sends SIGINT to Locust too, which prints its table and ends.
            process.wait()
            return 130


if __name__ == "__main__":
    sys.exit(main())
