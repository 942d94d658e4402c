"""`charstream loadtest`: does a server hold this load?"""

import subprocess
import sys
import tempfile
from pathlib import Path

from charstream.settings import fail
from client.commands.common import one_line_errors
from loadtest.answers.locust_process import locust_command, locust_environment
from loadtest.answers.prepare import alone_file, null_limit, served_settings
from loadtest.live import count_users
from loadtest.measures.document import Document, document, read_document
from loadtest.origin import describe_origin
from loadtest.report.command import keep_result
from loadtest.settings import LoadtestSettings

__all__ = ["run"]

COMMAND = "charstream loadtest"


def run(settings: LoadtestSettings) -> int:
    """Run the load, once or --repeats times, and keep what was measured; Locust's process prints it. Return the largest
    exit code."""
    try:
        if settings.report:
            settings.report.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(COMMAND, f"--report {settings.report}: {(error.strerror or str(error)).lower()}; name another folder")
    with one_line_errors(COMMAND, settings):
        settings, served = served_settings(settings)
    codes, runs = [], list[Document]()
    with alone_file(settings) as alone, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.json"
        changes = {"alone": alone, "null_limit": null_limit(settings), "result": file}
        _announce(settings, served.name)
        for _ in range(settings.repeats):
            codes.append(_run_once(settings.model_copy(update=changes)))
            if codes[-1] == 130 or not file.exists():
                break
            runs += read_document(file)["runs"]
    if runs:
        keep_result(settings, document("run", describe_origin(served), runs, {}))
    return max(codes)


def _announce(settings: LoadtestSettings, model: str) -> None:
    load = count_users(settings.users)
    if settings.is_open:
        load = f"{settings.rate:g} texts a second" if settings.rate else f"the calls of {settings.trace}"
    where = ", ".join(settings.host)
    print(f"{settings.scenario}: {load} for {settings.run_seconds} s at {where}: {model}", file=sys.stderr)


def _run_once(settings: LoadtestSettings) -> int:
    command = locust_command(settings, settings.run_seconds)
    if settings.report:
        command += ["--html", str(settings.report / "locust.html"), "--csv", str(settings.report / "stats")]
    with subprocess.Popen(command, env=locust_environment(settings)) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal sends SIGINT to Locust too, which prints its table and ends.
            process.wait()
            return 130
