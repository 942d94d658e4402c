"""The machine and the versions that figures were measured with."""

import os
import platform
from importlib.metadata import distributions
from pathlib import Path

__all__ = ["anonymous_megabytes", "describe_machine", "resident_megabytes"]


def describe_machine() -> str:
    """One line: processor, cores, and the versions that matter."""
    names = ("onnxruntime", "onnxruntime-gpu", "grpcio", "numpy", "torch")
    found = {distribution.name: distribution.version for distribution in distributions()}
    versions = ", ".join(f"{name} {found[name]}" for name in names if name in found)
    return f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process (Linux)."""
    return _status(pid, "VmRSS")


def anonymous_megabytes(pid: int) -> float:
    """Of it, what is no mapped file (Linux); 0 of a process that has ended."""
    return _status(pid, "RssAnon")


def _status(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    return kilobytes * 1024 / 1e6


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
