"""The versions of all that matters, and the machine's processor, without importing any of it."""

import importlib.util
import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["describe_installation", "installed_versions", "instruction_sets", "processor"]

CPUINFO = Path("/proc/cpuinfo")
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "grpcio", "protobuf", "numpy", "torch", "onnx", "locust")
# The instruction sets that the matmuls' speed and rounding depend on -> what /proc/cpuinfo calls them.
INSTRUCTION_SETS = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "BF16": {"avx512_bf16", "bf16"},
    "AMX": {"amx_tile"},
    "NEON": {"neon", "asimd"},
    "DOTPROD": {"asimddp"},
    "I8MM": {"i8mm"},
    "SVE": {"sve"},
}


def describe_installation() -> str:
    """Return a line each for charstream, Python, the installed packages among PACKAGES, and the machine."""
    lines = {
        "charstream": installed_versions("charstream").get("charstream", "not installed"),
        "Python": f"{platform.python_version()} on {platform.platform()}",
        **installed_versions(*PACKAGES),
        "providers": ", ".join(_providers()) or "none",
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "instructions": ", ".join(instruction_sets()) or "unknown",
    }
    return "\n".join(f"{name:16}{text}" for name, text in lines.items())


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    versions = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def processor() -> str:
    """Return the processor's name, or on other systems than Linux what Python knows of it."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    cpuinfo = _cpuinfo()
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    return [name for name, names in INSTRUCTION_SETS.items() if names & flags]


def _cpuinfo() -> dict[str, str]:
    """Return what Linux says of the last processor; empty on other systems."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip()}


def _providers() -> list[str]:
    """Return onnxruntime's execution providers: cpu, and those that are libraries of their own, such as cuda."""
    found = importlib.util.find_spec("onnxruntime")  # does not import it
    if found is None or found.origin is None:
        return []
    names = (file.stem.rpartition("_")[2] for file in Path(found.origin).parent.glob("capi/*onnxruntime_providers_*"))
    return ["cpu", *sorted(set(names) - {"shared"})]
