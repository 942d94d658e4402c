"""torchrun with an agent for each of two machines: a process that is killed costs the steps since the checkpoint."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.runs.start import how_to_go_on
from models.training.checkpoint import read
from models.training.distributed import may_meet_the_dead
from tests.models.conftest import SMALL
from tests.models.training.test_distributed import _free_port, _metrics

pytestmark = pytest.mark.slow
STEPS = 60
Train = Callable[..., Path]


def start_agent(port: int, log: Path, *flags: object) -> "subprocess.Popen[bytes]":
    elastic = ("--nnodes", 2, "--nproc-per-node", 1, "--max-restarts", 10, "--monitor-interval", 0.1)
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test")
    command = ("-m", "torch.distributed.run", *elastic, *meeting, "--local-addr", "127.0.0.1", "-m", "models.train")
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # as docs/training.md has it
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *map(str, (*command, *flags))], env=environment, stdout=file, stderr=file
        )


def worker_of(agent: int) -> int:
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    (worker,) = (pid for pid in map(int, children) if b"models.train" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return worker


def test_a_killed_process_costs_what_came_after_the_last_checkpoint(verse: Path, tmp_path: Path, train: Train) -> None:
    """The validations before and after it are those of one process that nobody killed."""
    flags = ("--dropout", "0", "--steps", STEPS)
    train(*map(str, flags), name="1")
    port, out = _free_port(), tmp_path / "2"
    logs = [tmp_path / f"agent{number}.log" for number in range(2)]
    agents = [start_agent(port, log, "--data", verse, *SMALL, *flags, "--out", out) for log in logs]
    try:
        end = time.monotonic() + 240
        while not (out / "last.json").exists() and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(worker_of(agents[1].pid), signal.SIGKILL)
        assert [agent.wait(240) for agent in agents] == [0, 0], "".join(log.read_text() for log in logs)
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    progress, tensors = read(out / "last.json")
    assert progress.progress.step == STEPS
    assert progress.progress.resumed, "it ended before anybody was killed"
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point())
    alone, together = (_metrics(tmp_path / name) for name in "12")
    assert together.keys() == alone.keys()
    for (name, step), nats in alone.items():
        # The mean training loss after the restart is one of fewer steps.
        assert name == "loss" or together[name, step] == pytest.approx(nats, abs=1e-4)
    said = logs[0].read_text() + logs[1].read_text()
    assert re.search(r"nats per character", said)
    assert "start torchrun with" not in said  # which prevents that they wait for the dead process


def test_whoever_lets_beginnings_share_a_store_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert not may_meet_the_dead()
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert may_meet_the_dead()


def test_what_a_dead_process_left_decides_how_its_successor_begins(tmp_path: Path) -> None:
    assert how_to_go_on(tmp_path) == {"overwrite": False}
    (tmp_path / "metrics.jsonl").touch()
    assert how_to_go_on(tmp_path) == {"overwrite": True}, "begun, and not saved"
    (tmp_path / "best.json").touch()
    assert how_to_go_on(tmp_path) == {"overwrite": False}, "weights are nothing to throw away"
    (tmp_path / "last.json").touch()
    assert how_to_go_on(tmp_path) == {"resume": True}
