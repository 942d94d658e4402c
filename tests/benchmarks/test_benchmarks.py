"""The benchmarks run and say what they promise; how fast anything is, no test says."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def benchmark(name: str, *flags: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_no_text_differs_alone_and_under_load(bundles: Path) -> None:
    out = benchmark("determinism", "--bundle", str(bundles / "tiny"), "--requests", "60")
    assert out.count("60 requests") == 2
    assert out.count("; 0 texts differ") == 2


def test_throughput_prints_every_load_in_both_precisions(bundles: Path) -> None:
    out = benchmark("throughput", "--bundle", str(bundles / "tiny"), "--rounds", "1", "--seconds", "0.4")
    for row in ("fp32 B=1 ", "int8 B=64 ", "int8 B=256 "):
        assert out.count(row) >= 2


def test_long_prompts_prints_the_gaps_with_and_without(bundles: Path) -> None:
    out = benchmark("long_prompts", "--bundle", str(bundles / "tiny"), "--rounds", "1", "--seconds", "1.5")
    assert "gap p99 with prompts / without" in out
    assert "of 2 had a first character" in out


def test_memory_prints_what_remains(bundles: Path) -> None:
    flags = ("--streams", "40", "--rounds", "1", "--seconds", "0.5")
    out = benchmark("memory", "--bundle", str(bundles / "tiny"), *flags)
    assert "engine, round 1: 40 texts" in out
    assert "40 of 40 streams delivered" in out
