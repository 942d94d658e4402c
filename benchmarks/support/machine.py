"""The machine and the versions that figures were measured with, and what a process holds (Linux)."""

import os
import platform
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from charstream.versions import installed_versions, instruction_sets, processor

__all__ = [
    "ProcessLevel",
    "anonymous_megabytes",
    "cpu_seconds",
    "describe_machine",
    "process_tree",
    "resident_megabytes",
    "settled_level",
    "thread_seconds",
]

# Allocators keep something of every peak, which does not add up; each process has its own.
KEPT_MEGABYTES = 32


def describe_machine() -> str:
    """Return one line: processor, its instruction sets, cores, and the versions that matter."""
    found = installed_versions("onnxruntime", "onnxruntime-gpu", "grpcio", "numpy", "torch")
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    instructions = " ".join(instruction_sets()) or "no AVX2"
    cores = f"{os.cpu_count()} cores"
    return f"{processor()} ({instructions}), {cores}, Python {platform.python_version()}, {versions}"


def process_tree(pid: int) -> list[int]:
    """Return a process and all that it started and that still run: a server, and its engine processes."""
    found = [pid]
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has just ended
            found += [each for child in file.read_text().split() for each in process_tree(int(child))]
    return found


def resident_megabytes(pid: int) -> float:
    """Return the resident memory of a process and of those that it started; what they share counts for each."""
    return sum(_memory(each, "VmRSS") for each in process_tree(pid))


def anonymous_megabytes(pid: int) -> float:
    """Return the resident memory that is no mapped file; 0 for a process that has ended."""
    return _memory(pid, "RssAnon")


def thread_seconds(pid: int) -> dict[int, float]:
    """Return the CPU seconds of each thread of one process; nothing where the system does not have them."""
    tick, found = os.sysconf("SC_CLK_TCK"), {}
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it has just ended
            fields = stat.read_text().rpartition(")")[2].split()
            found[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / tick
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and of those that it started."""
    return sum(sum(thread_seconds(each).values()) for each in process_tree(pid))


@dataclass(frozen=True)
class ProcessLevel:
    """Memory, open files and threads (by name) of a process and of those that it started; `processes` counts them."""

    processes: int
    megabytes: float
    files: int
    threads: Counter[str]

    @classmethod
    def of(cls, pid: int) -> "ProcessLevel":
        threads, files, processes = Counter[str](), 0, process_tree(pid)
        for each in processes:
            files += len([*Path(f"/proc/{each}/fd").iterdir()])
            for name in Path(f"/proc/{each}/task").glob("*/comm"):
                with suppress(OSError):  # it has just ended
                    threads[name.read_text().strip()] += 1
        return cls(len(processes), resident_megabytes(pid), files, threads)

    def growth(self, before: "ProcessLevel") -> list[str]:
        """Return a description of each thing of which there is more than before."""
        threads, memory = self.threads - before.threads, self.megabytes - before.megabytes
        more = {
            f"{self.files} files after {before.files}": self.files > before.files,
            f"more threads: {dict(threads)}": self.threads.total() > before.threads.total(),
            f"{self.megabytes:.0f} MB after {before.megabytes:.0f}": memory > KEPT_MEGABYTES * self.processes,
        }
        return [description for description, is_more in more.items() if is_more]


def settled_level(pid: int, before: ProcessLevel | None, seconds: float) -> ProcessLevel:
    """Wait until a process holds no more than before (or, without that, than half a second ago); return the level.

    After `seconds` it returns what there is then.
    """
    end, level = time.monotonic() + seconds, ProcessLevel.of(pid)
    while time.monotonic() < end:
        time.sleep(0.5)
        last, level = level, ProcessLevel.of(pid)
        if not level.growth(before or last):
            break
    return level


def _memory(pid: int, name: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0
    kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    return kilobytes * 1024 / 1e6
