"""Measure one peer once: start it, check its text, load it, end it."""

import json
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environments import CLIENT, python_of
from benchmarks.peers.processes import ROOT, busy_seconds, free_port, running, tree_seconds
from benchmarks.peers.readers import TEMPERATURE
from benchmarks.peers.servers.char_model import CharModel
from benchmarks.peers.table import DEFAULT_CHUNK, Load, Peer

__all__ = ["Bench", "Result", "greedy_text"]

CHARS = 200  # of a text
SETTLE_SECONDS = 2.0  # in which the readers begin, one after another; not counted
START_SECONDS = 90.0
CHECKED_CHUNKS = (1, 8)
Result = dict[str, Any]  # JSON


class PeerFailed(RuntimeError):
    """A peer did not start, or did not answer; the message is one line."""


@dataclass(frozen=True)
class Bench:
    """Everything that the measurements share.

    Attributes:
        folder: of the peers' environments and logs.
        bundle, run: the model as charstream exported it, and the training run that it came from.
        client: the environment of the readers; "" is the project's own.
        seconds: that count, of each measurement.
    """

    folder: Path
    bundle: Path
    run: Path
    seconds: float
    client: str = CLIENT
    chars: int = CHARS
    settle: float = SETTLE_SECONDS

    def measure(self, peer: Peer, say: Callable[[str], None]) -> Result:
        """Return the peer's greedy texts and what each load came to, or the reason why there is nothing."""
        log = self.folder / "logs" / f"{peer.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        port = free_port()
        places = {"bundle": self.bundle.absolute(), "run": self.run.absolute(), "port": port, "http_port": free_port()}
        python = python_of(self.folder, peer.environment)
        command = [part.format(python=python, **places) for part in peer.command]
        try:
            with running(command, log, self.bundle.absolute()) as process:
                speak = self._lines(process) if peer.protocol == "lines" else self._readers(peer, port, process.pid)
                greedy = speak.greedy()
                return {"greedy": greedy, "loads": dict(self._loads(peer, speak, process.pid, say))}
        except (PeerFailed, OSError) as error:
            return {"error": f"{error}{_last_line(log)}"}

    def _loads(self, peer: Peer, speak: Any, pid: int, say: Callable[[str], None]) -> Iterator[tuple[str, Result]]:
        failure = None
        for load in peer.loads:
            if failure:  # it hangs, or has ended: so that a peer's time is bounded
                yield load.key, {"error": f"not tried after: {failure}", "others": 0.0}
                continue
            before, began = _seconds(pid), time.monotonic()
            try:
                found = speak.load(load)
            except PeerFailed as error:
                failure = str(error)
                found = {"error": failure}
            after, wall = _seconds(pid), time.monotonic() - began
            own = (after[0] - before[0]) + (after[1] - before[1])
            found["others"] = max(0.0, (after[2] - before[2] - own) / wall)
            say(f"  {peer.name}, {describe(load)}: " + found.get("error", f"{found.get('speed', 0):,.0f} chars/s"))
            yield load.key, found

    def _readers(self, peer: Peer, port: int, pid: int) -> "_Readers":
        return _Readers(self, peer, f"127.0.0.1:{port}{peer.path}", pid)

    def _lines(self, process: subprocess.Popen[str]) -> "_Lines":
        return _Lines(self, process)


def describe(load: Load) -> str:
    chunk = "default messages" if load.chunk == DEFAULT_CHUNK else f"{load.chunk} a message"
    return f"{load.streams} streams, {chunk}"


def greedy_text(bundle: Path, graph: str, chars: int = CHARS) -> str:
    """Return the text that each peer with this graph should write at temperature 0."""
    model = CharModel(bundle, graph)
    return model.texts(model.run(model.begin(1), chars, np.zeros(1, np.float32)))[0]


@dataclass(frozen=True)
class _Readers:
    """The client in a process of its own, in front of a server."""

    bench: Bench
    peer: Peer
    address: str
    pid: int

    def greedy(self) -> dict[str, str]:
        """Wait for the server; return its text at temperature 0 for each message size."""
        chunks = [str(chunk) for chunk in CHECKED_CHUNKS]
        texts: dict[str, str] = self._client("check", START_SECONDS + 60, "--chunks", *chunks)
        return texts

    def load(self, load: Load) -> Result:
        bench = self.bench
        limit = bench.settle + 4 * bench.seconds + 60
        times = ("--settle", str(bench.settle), "--seconds", str(bench.seconds))
        found = self._client("load", limit, "--chunks", str(load.chunk), "--streams", str(load.streams), *times)
        kept = ("chars", "texts", "wrong", "client", "samples")
        percentiles = {name: _percentiles(found[name]) for name in ("first_ms", "gaps_ms")}
        rates = {"speed": found["chars"] / bench.seconds, "messages": found["messages"] / bench.seconds}
        failures = {"failures": len(found["failed"]), "failed": found["failed"][:1]}
        return {name: found[name] for name in kept} | percentiles | rates | failures

    def _client(self, what: str, limit: float, *flags: str) -> Any:
        bench = self.bench
        command = [str(python_of(bench.folder, bench.client)), "-m", "benchmarks.peers.readers", what]
        command += ["--protocol", self.peer.protocol, "--address", self.address, "--bundle", str(bench.bundle)]
        command += ["--chars", str(bench.chars), "--patience", str(START_SECONDS), "--server", str(self.pid), *flags]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, cwd=ROOT)
        except subprocess.TimeoutExpired:
            raise PeerFailed(f"no end within {limit:.0f} s") from None
        if result.returncode:
            raise PeerFailed((result.stderr.strip().splitlines() or ["the client failed"])[-1][:300])
        return json.loads(result.stdout)


@dataclass(frozen=True)
class _Lines:
    """A process without a server, which is asked by lines."""

    bench: Bench
    process: subprocess.Popen[str]

    def greedy(self) -> dict[str, str]:
        return {"1": self._ask(1, 0.0, 0.0)["texts"][0]}

    def load(self, load: Load) -> Result:
        self._ask(load.streams, self.bench.settle, TEMPERATURE)
        found = self._ask(load.streams, self.bench.seconds, TEMPERATURE)
        return {"speed": found["chars_per_second"], "samples": found["texts"], "wrong": 0, "failures": 0}

    def _ask(self, rows: int, seconds: float, temperature: float) -> Result:
        asked = {"rows": rows, "seconds": seconds, "chars": self.bench.chars, "temperature": temperature}
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        lines: list[str] = []
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: Result = json.loads(line)
                return answer
            lines.append(line)
        raise PeerFailed((lines or ["it ended without a word"])[-1].strip())


def _percentiles(values: Sequence[float]) -> list[float] | None:
    """Return the 50th and the 99th percentile."""
    return [float(each) for each in np.percentile(values, (50, 99))] if values else None


def _seconds(pid: int) -> tuple[float, float, float]:
    """Return the CPU seconds of the peer, of the clients that have ended, and of the whole machine."""
    clients = resource.getrusage(resource.RUSAGE_CHILDREN)
    return tree_seconds(pid), clients.ru_utime + clients.ru_stime, busy_seconds()


def _last_line(log: Path) -> str:
    with suppress(OSError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if "rror" in line]
        return f" (its log: {lines[-1][:200]})" if lines else ""
    return ""
