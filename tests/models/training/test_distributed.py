"""Several processes take the steps that one process with the joint batch takes.

They are forked with their imports done; torchrun starts them in test_elastic.py.
"""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.training.checkpoint import read
from tests.models.conftest import SMALL
from tests.models.group import start_group

pytestmark = pytest.mark.slow
PROCESSES = 2
Train = Callable[..., Path]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _train(log: Path, *flags: object) -> list[int | None]:
    """Train in two processes; return their exit codes."""
    processes = start_group(PROCESSES, _free_port(), flags, log)
    for process in processes:
        process.join(240)
    return [process.exitcode for process in processes]


def _metrics(run: Path) -> dict[tuple[str, int], float]:
    """Every loss by its name and step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        (name, line["step"]): line[name] for line in lines for name in ("loss", "validation", "carried") if name in line
    }


def test_two_processes_with_everything_have_the_losses_of_one(verse: Path, tmp_path: Path, train: Train) -> None:
    options = ("--loss", "sum", "--l2", "1e-3", "--ema", "0.9", "--random-offsets", "--replace-rate", "0.1")
    teacher = ("--distill-from", str(train("--steps", "1", name="teacher")))
    flags, log = ("--dropout", "0", "--steps", "20", *options, *teacher), tmp_path / "log"
    train(*flags, name="1")
    assert _train(log, "--data", verse, *SMALL, *flags, "--out", tmp_path / "2") == [0, 0], log.read_text()
    assert log.read_text().count("nats per character") == 1
    _have_the_same_losses(tmp_path)


def _have_the_same_losses(tmp_path: Path) -> None:
    one, two = (_metrics(tmp_path / name) for name in "12")
    assert one.keys() == two.keys() >= {("validation", step) for step in range(1, 21)} | {("loss", 20)}
    for what, alone in one.items():
        assert two[what] == pytest.approx(alone, abs=1e-5), what
    (_, first), (_, second) = read(tmp_path / "1" / "last.json"), read(tmp_path / "2" / "last.json")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-4)


def test_two_processes_find_out_what_is_fastest(verse: Path, tmp_path: Path) -> None:
    flags, log = ("--precision", "auto", "--steps", "3"), tmp_path / "log"
    assert _train(log, "--data", verse, *SMALL, *flags, "--out", tmp_path / "run") == [0, 0], log.read_text()


def test_two_processes_go_on_where_two_were_left(verse: Path, tmp_path: Path) -> None:
    flags, log = ("--data", verse, *SMALL, "--dropout", "0.3", "--steps", "80"), tmp_path / "log"
    assert _train(log, *flags, "--out", tmp_path / "whole") == [0, 0], log.read_text()
    stopped = tmp_path / "stopped"
    processes = start_group(PROCESSES, _free_port(), (*flags, "--out", stopped), log)
    while processes[0].is_alive() and not (stopped / "last.json").exists():
        time.sleep(0.01)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(240)
    assert 0 < read(stopped / "last.json")[0].progress.step < 80
    assert _train(log, "--out", stopped, "--resume") == [0, 0], log.read_text()
    first, second = (read(tmp_path / name / "last.json")[1] for name in ("whole", "stopped"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(("--norm", "batch"), "--norm batch: each process would"), (("--batch", "7"), "--batch 6 can")],
)
def test_what_cannot_be_shared_is_refused_in_one_line(
    verse: Path, tmp_path: Path, flags: tuple[str, ...], reason: str
) -> None:
    log = tmp_path / "log"
    assert _train(log, "--data", verse, "--out", tmp_path / "run", *SMALL, "--steps", "3", *flags) == [2, 1]
    assert sum(reason in line for line in log.read_text().splitlines()) == 1
