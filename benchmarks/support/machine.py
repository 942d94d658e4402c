"""The machine and the versions that figures were measured with."""

import os
import platform
from pathlib import Path

from charstream.versions import installed_versions, processor

__all__ = ["anonymous_megabytes", "describe_machine", "resident_megabytes"]


def describe_machine() -> str:
    """One line: processor, cores, and the versions that matter."""
    found = installed_versions("onnxruntime", "onnxruntime-gpu", "grpcio", "numpy", "torch")
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


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
