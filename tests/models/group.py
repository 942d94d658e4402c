"""Processes that share a training run, without torchrun: forked from one that has imported torch already."""

import gc
import os
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from models.train import main
from tests.forked import context

__all__ = ["start_group"]


def start_group(size: int, port: int, flags: Sequence[object], log: Path) -> list[BaseProcess]:
    """Start `charstream train` in each process of a group, with the variables that torchrun sets."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    processes: list[BaseProcess] = []
    for rank in range(size):
        variables = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(context.Process(target=_train, args=(variables, [*map(str, flags)], log)))
        processes[-1].start()
    return processes


def _train(variables: dict[str, str], flags: list[str], log: Path) -> None:
    gc.freeze()
    gc.enable()
    os.environ.update(variables)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    try:
        code = main(flags)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as models/train.py ends in a group
