"""The machine and the versions that figures were measured with."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

__all__ = ["describe_machine"]


def describe_machine() -> str:
    """One line: processor, cores, and the versions that matter."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "grpcio", "numpy"))
    return f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
