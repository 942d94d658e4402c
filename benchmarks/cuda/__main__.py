"""Measure everything that should be known of a machine with a GPU, in one call:

    python -m benchmarks.cuda [--bundle FOLDER] [--data FILE] [--part NAME]

Each part is a process of its own, with a limit, and prints as it goes: one that fails leaves the others. All but the
last take about ten minutes; the last one, `loss`, takes --minutes. Bars, where there are some, are those of one H200.
Without a GPU `--provider cpu` with small sizes rehearses all of it. Exit code 0: every part went through.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cuda.parts import PARTS, CudaSettings, Part, say
from benchmarks.support.machine import describe_machine
from charstream.settings import parse
from loadtest.settings import to_flags

COMMAND = "python -m benchmarks.cuda"
# Seconds of a part; of `loss` beyond its minutes.
LIMIT, LIMITS = 240.0, {"export": 420.0, "determinism": 420.0}


def run(settings: CudaSettings, part: Part) -> str | None:
    """Run a part in a process of its own; return what went wrong."""
    limit = LIMITS.get(part, LIMIT) + (60 * settings.minutes if part == "loss" else 0)
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
    say(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        failed = run_all(settings.model_copy(update={"folder": settings.folder or Path(folder)}))
    for part, reason in failed.items():
        say(f"{part} failed: {reason}")
    return 1 if failed else 0


def run_all(settings: CudaSettings) -> dict[Part, str]:
    """Run the parts; return what went wrong by part."""
    left_out = {"export"} if settings.bundle else set()
    left_out |= set() if settings.minutes else {"loss"}
    failed: dict[Part, str] = {}
    for part in settings.part or [part for part in PARTS if part not in left_out]:
        begin = time.monotonic()
        say(f"== {part}")
        if reason := run(settings, part):
            failed[part] = reason
        say(f"({part}: {failed.get(part, 'done')}, {time.monotonic() - begin:.0f} s)")
    return failed


if __name__ == "__main__":
    sys.exit(main())
