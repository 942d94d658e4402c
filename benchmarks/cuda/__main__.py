"""Measure everything that should be known of a machine with a GPU, in one call:

    python -m benchmarks.cuda [--bundle FOLDER] [--data FILE] [--part NAME]
    python -m benchmarks.cuda --short 540 --bundle FOLDER [--data FILE]

Each part is a process of its own, with a limit, and prints as it goes: one that fails leaves the others. All but the
last take about ten minutes; the last one, `loss`, takes --minutes. With --short nothing is exported, and parts come in
the order of their worth and end with the time. The last line is JSON with all figures; `result.json` in --folder has
it after each part, should all of it be cut off. Bars, where there are some, are those of one H200.
Without a GPU `--provider cpu` with small sizes rehearses all of it. Exit code 0: every part went through.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cuda.parts import FIGURES, IN_ORDER_OF_WORTH, PARTS, SHORT, CudaSettings, Part, say
from benchmarks.support.machine import describe_machine
from charstream.settings import fail, parse
from loadtest.settings import to_flags

COMMAND = "python -m benchmarks.cuda"
RESULT = "result.json"
# Seconds of a part; of `loss` beyond its minutes.
LIMIT, LIMITS = 240.0, {"export": 420.0, "determinism": 420.0}


def run(settings: CudaSettings, part: Part, limit: float) -> str | None:
    """Run a part in a process of its own, at most `limit` seconds; return what went wrong."""
    alone = settings.model_copy(update={"part": (part,)})
    command = [sys.executable, "-m", "benchmarks.cuda", *to_flags(alone, CudaSettings)]
    # A session of its own, so that its server and its clients end with it.
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"not done after {limit:.0f} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return f"exit code {code}" if code else None


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(CudaSettings, argv, command=COMMAND)
    if len(settings.part) == 1 and settings.folder:
        PARTS[settings.part[0]](settings)
        return 0
    if settings.short and not settings.bundle:
        fail(COMMAND, "--short exports nothing: give --bundle", code=2)
    say(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        settings = settings.model_copy(update={"folder": settings.folder or Path(folder)})
        settings.file(FIGURES).unlink(missing_ok=True)
        failed = (run_short if settings.short else run_all)(settings)
        for part, reason in failed.items():
            say(f"{part} failed: {reason}")
        say(_keep_result(settings, failed))
    return 1 if failed else 0


def run_short(settings: CudaSettings) -> dict[Part, str]:
    """Run the parts in the order of their worth, each as long as its share and what is left of --short allow."""
    begin, failed = time.monotonic(), dict[Part, str]()
    for part in settings.part or IN_ORDER_OF_WORTH:
        left = settings.short - (time.monotonic() - begin)
        limit = min(IN_ORDER_OF_WORTH.get(part, SHORT) * settings.short / SHORT, left)
        if limit > 0:
            _report(settings, part, limit, failed)
        else:
            failed[part] = "no time was left"
        if part == "smoke" and part in failed:
            say("until the device is seen to compute what the host does, its speeds mean nothing")
    return failed


def run_all(settings: CudaSettings) -> dict[Part, str]:
    """Run the parts; return what went wrong by part."""
    left_out = {"export"} if settings.bundle else set()
    left_out |= set() if settings.minutes else {"loss"}
    left_out |= set() if settings.provider == "cuda" else {"gpu_tests"}
    failed: dict[Part, str] = {}
    for part in settings.part or [part for part in PARTS if part not in left_out]:
        _report(settings, part, LIMITS.get(part, LIMIT) + (60 * settings.minutes if part == "loss" else 0), failed)
    return failed


def _report(settings: CudaSettings, part: Part, limit: float, failed: dict[Part, str]) -> None:
    """Run a part, and say how it went."""
    begin = time.monotonic()
    say(f"== {part}")
    if reason := run(settings, part, limit):
        failed[part] = reason
    say(f"({part}: {failed.get(part, 'done')}, {time.monotonic() - begin:.0f} s)")
    _keep_result(settings, failed)


def _keep_result(settings: CudaSettings, failed: dict[Part, str]) -> str:
    """Write the JSON of all that is known so far; return it."""
    text = json.dumps({"machine": describe_machine(), "failed": failed, "figures": settings.figures})
    settings.file(RESULT).write_text(text)
    return text


if __name__ == "__main__":
    sys.exit(main())
