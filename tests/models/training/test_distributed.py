"""Several processes take the steps that one process with the joint batch takes."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from models.training.checkpoint import read
from tests.models.conftest import SMALL

pytestmark = pytest.mark.slow
PROCESSES = 2


def _command(processes: int, *flags: object) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", processes, "--master-port", port)
    return [sys.executable, *map(str, (*torchrun, "-m", "models.train", *flags))]


def _train(processes: int, *flags: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(processes, *flags), capture_output=True, text=True, check=False, timeout=240)


def _metrics(run: Path) -> dict[tuple[str, int], float]:
    """Every loss by its name and step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        (name, line["step"]): line[name] for line in lines for name in ("loss", "validation", "carried") if name in line
    }


@pytest.mark.parametrize(
    "options", [(), ("--loss", "sum", "--l2", "1e-3", "--ema", "0.9", "--random-offsets", "--replace-rate", "0.1")]
)
def test_two_processes_have_the_losses_of_one(verse: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    flags = ("--data", verse, *SMALL, "--dropout", "0", "--steps", "20", *options)
    for processes in (1, PROCESSES):
        done = _train(processes, *flags, "--out", tmp_path / str(processes))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("nats per character") == 1
    one, two = (_metrics(tmp_path / name) for name in "12")
    assert one.keys() == two.keys() >= {("validation", step) for step in range(1, 21)} | {("loss", 20)}
    for what, alone in one.items():
        assert two[what] == pytest.approx(alone, abs=1e-5), what
    (_, first), (_, second) = read(tmp_path / "1" / "last.json"), read(tmp_path / "2" / "last.json")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-4)


def test_two_processes_find_out_what_is_fastest(verse: Path, tmp_path: Path) -> None:
    done = _train(PROCESSES, "--data", verse, *SMALL, "--precision", "auto", "--steps", "3", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr


def test_two_processes_go_on_where_two_were_left(verse: Path, tmp_path: Path) -> None:
    flags = ("--data", verse, *SMALL, "--dropout", "0.3", "--steps", "300")
    assert _train(PROCESSES, *flags, "--out", tmp_path / "whole").returncode == 0
    stopped = tmp_path / "stopped"
    with subprocess.Popen(_command(PROCESSES, *flags, "--out", stopped), stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (stopped / "last.json").exists():
            time.sleep(0.01)
        process.terminate()
    assert 0 < read(stopped / "last.json")[0].progress.step < 300
    assert _train(PROCESSES, "--out", stopped, "--resume").returncode == 0
    first, second = (read(tmp_path / name / "last.json")[1] for name in ("whole", "stopped"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(("--norm", "batch"), "--norm batch: each process would"), (("--batch", "7"), "--batch 6 can")],
)
def test_what_cannot_be_shared_is_refused_in_one_line(
    verse: Path, tmp_path: Path, flags: tuple[str, ...], reason: str
) -> None:
    done = _train(PROCESSES, "--data", verse, "--out", tmp_path / "run", *SMALL, "--steps", "3", *flags)
    assert done.returncode != 0
    assert sum(reason in line for line in done.stderr.splitlines()) == 1
