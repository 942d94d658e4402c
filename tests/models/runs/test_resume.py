"""A run that is killed, and killed again, ends in the same weights as one that is not."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.data.cache import cache_folder
from models.train import main
from models.training.checkpoint import read
from tests.forked import ForkedPython
from tests.models.conftest import SMALL

COMMAND = ("-m", "charstream", "train")
STEPS = 160
# What a run carries from step to step: state, noise, masks, means of weights and of gradients, statistics, counters.
EVERYTHING = (
    *("--layers", "2", "--dropout", "0.2", "--norm", "batch", "--residual", "--ema", "0.99", "--patience", "50"),
    *("--random-offsets", "--replace-rate", "0.02", "--drop-rate", "0.02", "--l1", "1e-6", "--l2", "1e-5"),
)
OTHERS = {
    "adamw": (*EVERYTHING, "--cell", "gru", "--recurrent-norm", "layer", "--weight-decay", "0.1"),
    "momentum": (
        "--optimizer",
        "momentum",
        "--cell",
        "rnn",
        "--activation",
        "prelu",
        "--loss",
        "sum",
        "--locked-dropout",
        "--weight-drop",
        "0.1",
        "--shuffle",
    ),
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.slow
def test_killed_three_times_and_resumed_is_bitwise_as_in_one_go(
    verse: Path, tmp_path: Path, train: Callable[..., Path], options: tuple[str, ...]
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = (*options, "--distill-from", str(train("--cell", "gru", "--steps", "1", name="teacher")))
    flags = ["--data", str(verse), *SMALL, *options, "--steps", str(STEPS)]
    killed, whole = tmp_path / "killed", train(*options, "--steps", str(STEPS), name="whole")
    shutil.rmtree(cache_folder() / "teachers")  # the teacher reads the text once more, with another number of threads
    again = [*flags, "--out", str(killed)]
    for share in (0.1, 0.4, 0.7):
        with ForkedPython([*COMMAND, *again], env=environment, stderr=subprocess.DEVNULL) as process:
            _wait_for_step(killed, int(share * STEPS), process)
            time.sleep(random.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
        again = ["--out", str(killed), "--resume"]
        assert 0 < read(killed / "last.json")[0].progress.step < STEPS
    assert main(again) == 0
    _same(whole, killed)


def _wait_for_step(run: Path, step: int, process: ForkedPython, seconds: float = 120.0) -> None:
    """Until a checkpoint tells of it."""
    deadline = time.monotonic() + seconds
    while not ((run / "last.json").exists() and read(run / "last.json")[0].progress.step >= step):
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def _same(a: Path, b: Path) -> None:
    for name in ("last.json", "best.json"):
        (one, first), (other, second) = read(a / name), read(b / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert one.training.validation_nats == other.training.validation_nats
        assert (one.progress.guard, one.progress.worse) == (other.progress.guard, other.progress.worse)
