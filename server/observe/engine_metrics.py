"""The metrics of engines for Prometheus."""

import resource
from collections import Counter as Counts
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bundle.manifest import Precision
from server.engine.messages import EngineObserver, PoolObserver
from server.observe.totals import RunTotals, Total

__all__ = ["POWERS_OF_2", "SECONDS", "EngineFamilies", "EngineMetrics", "ModelInfo", "PoolMetrics"]

SECONDS = [step * 1e-6 * 10**power for power in range(1, 8) for step in (1, 2.5, 5)][2:]  # from 50 us to 50 s
POWERS_OF_2 = [float(2**power) for power in range(17)]


@dataclass(frozen=True)
class ModelInfo:
    """The labels by which a loaded model differs from others."""

    name: str
    version: str
    digest: str
    precision: Precision
    provider: str
    numerics: str


class EngineFamilies:
    """The metrics of all engines, with a label for the model's name.

    Attributes:
        runs: the same runs, for clients that ask for them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, help_text: str) -> Gauge:
            return Gauge(f"charstream_{name}", help_text, ["model"], registry=registry)

        def histogram(name: str, help_text: str, buckets: list[float]) -> Histogram:
            return Histogram(f"charstream_{name}", help_text, ["model"], registry=registry, buckets=buckets)

        self.rows = gauge("rows", "Texts that have a row of the batch")
        self.waiting = gauge("waiting", "Texts that wait for their first row")
        self.paused = gauge("paused_rows", "Texts that gave up their row, to slow readers or for others")
        self.queue = histogram("queue_seconds", "What a text waited for its first row", SECONDS)
        self.step = histogram("step_seconds", "One step of a run, for all its rows", SECONDS)
        self.batch_rows = histogram("batch_rows", "Rows of a run", POWERS_OF_2)
        self.chars = Counter(
            "charstream_chars_total",
            "Characters that went through the model: generated, or given and read",
            ["model", "kind"],
            registry=registry,
        )
        labels = ["model", "version", "engine"]
        self.busy = Counter(
            "charstream_engine_busy_seconds_total", "What the runs of an engine took", labels, registry=registry
        )
        self.memory = Gauge(
            "charstream_engine_memory_bytes", "Resident memory of an engine process", labels, registry=registry
        )
        self.deaths = Counter(
            "charstream_engine_deaths_total", "Engine processes that ended by themselves", ["model"], registry=registry
        )
        self.replays = Counter(
            "charstream_engine_replays_total", "Texts that went on in another engine", ["model"], registry=registry
        )
        names = [field.name for field in fields(ModelInfo)]
        self._info = Gauge("charstream_model_info", "1 for each model that is loaded", names, registry=registry)
        self._running, self._lock = Counts[ModelInfo](), Lock()
        self._pids: dict[tuple[str, ...], set[int]] = {}  # of engine processes, by the labels of their memory
        self.runs = RunTotals()

    def add(self, model: ModelInfo) -> None:
        with self._lock:
            self._running[model] += 1
            self._info.labels(*astuple(model)).set(1)

    def add_process(self, labels: tuple[str, ...], pid: int) -> None:
        """Show the memory of a process. Two have the same labels while one content of a version replaces another."""
        with self._lock:
            pids = self._pids.setdefault(labels, set())
            pids.add(pid)
            self.memory.labels(*labels).set_function(lambda: sum(map(_resident_bytes, tuple(pids))))

    def remove_process(self, labels: tuple[str, ...], pid: int) -> None:
        """Note that a process has ended."""
        with self._lock:
            self._pids[labels].discard(pid)
            if not self._pids[labels]:
                del self._pids[labels]
                self.memory.remove(*labels)

    def remove(self, model: ModelInfo) -> None:
        """Note that an engine of the model has ended; another one of the same model may run by now."""
        with self._lock:
            self._running[model] -= 1
            if not self._running[model]:
                del self._running[model]
                self._info.remove(*astuple(model))


class EngineMetrics(EngineObserver):
    """Metrics of one engine. Several of one model name, of old and new versions, count together.

    Args:
        index: of the engine among those of the model.
        pid: of its process; None if that is the server's.
    """

    def __init__(self, families: EngineFamilies, info: ModelInfo, index: int = 0, pid: int | None = None) -> None:
        self._families, self._info, model = families, info, info.name
        self._labels = info.name, info.version, str(index)
        self._busy = families.busy.labels(*self._labels)
        self._pid = pid
        self._queue, self._step = families.queue.labels(model), families.step.labels(model)
        self._batch_rows = families.batch_rows.labels(model)
        self._generated = families.chars.labels(model, "generated")
        self._forced = families.chars.labels(model, "forced")
        self._gauges = [gauge.labels(model) for gauge in (families.rows, families.waiting, families.paused)]
        self._held = (0, 0, 0)
        self._runs = families.runs.of(info.name, info.version)

    def on_start(self) -> None:
        self._families.add(self._info)
        if self._pid is not None:
            self._families.add_process(self._labels, self._pid)

    def on_wait(self, seconds: float) -> None:
        self._queue.observe(seconds)

    def on_run(self, rows: int, steps: int, seconds: float, generated: int, forced: int) -> None:
        self._busy.inc(seconds)
        self._step.observe(seconds / steps)
        self._runs.setdefault(rows, Total()).add(seconds)
        self._batch_rows.observe(rows)
        self._generated.inc(generated)
        self._forced.inc(forced)

    def on_tick(self, rows: int, waiting: int, paused: int) -> None:
        holds = (rows, waiting, paused)
        for gauge, before, now in zip(self._gauges, self._held, holds, strict=True):
            if now != before:
                gauge.inc(now - before)
        self._held = holds

    def on_end(self) -> None:
        self.on_tick(0, 0, 0)
        if self._pid is not None:
            self._families.remove_process(self._labels, self._pid)
        self._families.remove(self._info)


class PoolMetrics(PoolObserver):
    """Metrics of the engine processes of one model."""

    def __init__(self, families: EngineFamilies, info: ModelInfo) -> None:
        self._families, self._info = families, info
        # From the start: a rate cannot be taken of a counter that begins at 1.
        self._deaths, self._replays = families.deaths.labels(info.name), families.replays.labels(info.name)

    def engine(self, index: int, pid: int) -> EngineMetrics:
        return EngineMetrics(self._families, self._info, index, pid)

    def on_death(self, replays: int) -> None:
        self._deaths.inc()
        self._replays.inc(replays)


def _resident_bytes(pid: int) -> float:
    """Return the resident memory of a process; 0 if it is gone, or the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return float(pages * resource.getpagesize())
