"""Servers of the same models that keep their addresses while they are killed, stopped, slowed, drained and started."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.support.machine import process_tree
from benchmarks.support.servers import ServerProcess, serving

__all__ = ["Replicas", "slow_down"]

TURN_SECONDS = 0.1


class Replicas:
    """Server processes, by number.

    Args:
        models: the folder of each.
        module: what is run as a server, with its first arguments.

    Attributes:
        addresses: as "host:port"; they stay.
    """

    def __init__(self, models: Sequence[Path], *flags: str, module: Sequence[str] = ("server",)) -> None:
        self.models, self._flags, self._module = list(models), flags, module
        self._servers: list[ServerProcess | None] = [None] * len(models)
        self._ports = [0] * len(models)
        try:
            with ThreadPoolExecutor(len(models)) as pool:
                list(pool.map(self.start, range(len(models))))
        except BaseException:
            self.stop()
            raise
        self.addresses = [f"127.0.0.1:{port}" for port in self._ports]

    def start(self, number: int) -> None:
        """Start one, at its address, and wait until it listens."""
        server = serving(self.models[number], *self._flags, port=self._ports[number], module=self._module)
        self._servers[number], self._ports[number] = server, int(server.address.rpartition(":")[2])

    def server(self, number: int) -> ServerProcess:
        found = self._servers[number]
        assert found is not None, "it was started"
        return found

    def kill(self, number: int) -> None:
        self.server(number).stop(signal.SIGKILL)

    def drain(self, number: int) -> int:
        """End one as an upgrade does; return its exit code."""
        return self.server(number).stop(signal.SIGTERM)

    @contextmanager
    def freeze(self, number: int) -> Iterator[None]:
        """Stop one in the block: its connections stay, and nobody is behind them."""
        with _freeze_all(process_tree(self.server(number).pid)):
            yield

    def stop(self) -> None:
        for server in self._servers:
            if server:
                server.stop(signal.SIGKILL)
                server.__exit__(None, None, None)

    def __enter__(self) -> "Replicas":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def _freeze_all(pids: Sequence[int]) -> Iterator[None]:
    _signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(pids, signal.SIGCONT)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


@contextmanager
def slow_down(pid: int, share: float) -> Iterator[None]:
    """Let a server and its engines run for a share of the time only, in turns of a tenth of a second."""
    pids, over = process_tree(pid), threading.Event()

    def take_turns() -> None:
        while not over.is_set():
            with _freeze_all(pids):
                time.sleep(TURN_SECONDS * (1 - share))
            over.wait(TURN_SECONDS * share)

    thread = threading.Thread(target=take_turns)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
