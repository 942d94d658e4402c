"""The server's metrics for Prometheus. docs/design.md, section 9, says what each name means.

Labels have names of models, methods and settings, never strings that a client made up: so their number is bounded.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from importlib.metadata import version

from grpc import StatusCode
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from server.observe.call import ATTEMPTS, PROXY, Call, Observer
from server.observe.engine_metrics import POWERS_OF_2, SECONDS, EngineFamilies, EngineMetrics, ModelInfo, PoolMetrics

__all__ = ["Metrics", "Stage"]

CALL_SECONDS = [*SECONDS, 100, 300, 1000, 3600]


class Stage(Enum):
    """Where the server is in its life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    BROKEN = "an engine broke"


class Metrics(Observer):
    """All metrics of one server: of calls, which it observes, of failed loads, and of engines.

    Args:
        lost_lines: returns the number of log lines that could not be written.
        methods: the type of each RPC that is counted from the start, by "package.Service/Method".
        max_rows: texts that may run, of each model.

    Attributes:
        stage: is set by the server, and read from any thread.
        runs: of all engines.
    """

    def __init__(self, lost_lines: Callable[[], int], methods: Mapping[str, str], max_rows: int) -> None:
        self.registry, self.stage = CollectorRegistry(), Stage.LOADING
        self._calls, self._texts = _Calls(self.registry, methods), _Texts(self.registry)
        self._engines = EngineFamilies(self.registry)
        self.runs = self._engines.runs
        self._refused = Counter(
            "charstream_refused_total",
            "Calls refused, by the setting that they went beyond",
            ["limit"],
            registry=self.registry,
        )
        self._load_failures = Counter(
            "charstream_model_load_failures_total", "Bundles that could not be served", registry=self.registry
        )
        self.registry.register(_LostLines(lost_lines))
        self.registry.register(_RowShares(self._engines.rows, max_rows))
        for name, stage in (("charstream_ready", Stage.READY), ("charstream_draining", Stage.DRAINING)):
            gauge = Gauge(name, f"1 while the server is {stage.value}", registry=self.registry)
            gauge.set_function(partial(self._is_in, stage))
        build = Info("charstream_build", "The version that runs", registry=self.registry)
        build.info({"version": version("charstream")})
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def load(self) -> dict[str, dict[str, float]]:
        """Return by model name: texts that have a row, wait for one, and gave it up; characters generated and read."""
        names = ("charstream_rows", "charstream_waiting", "charstream_paused_rows", "charstream_chars_total")
        found = dict[str, dict[str, float]]()
        for family in self.registry.restricted_registry(names).collect():
            for sample in family.samples:
                if sample.name in names:
                    name = sample.labels.get("kind") or sample.name.removeprefix("charstream_")
                    found.setdefault(sample.labels["model"], {})[name] = sample.value
        return found

    def engine(self, model: ModelInfo) -> EngineMetrics:
        """Return the metrics of the engine of this model."""
        return EngineMetrics(self._engines, model)

    def engines(self, model: ModelInfo) -> PoolMetrics:
        """Return the metrics of the engine processes of this model."""
        return PoolMetrics(self._engines, model)

    def count_load_failure(self) -> None:
        """Count a bundle that cannot be served."""
        self._load_failures.inc()

    def on_begin(self, call: Call) -> None:
        if call.rpc_type:
            self._calls.get(call.method, call.rpc_type).started.inc()

    def on_message(self, call: Call, chars: int, seconds: float | None) -> None:
        text = self._texts.get(call.model)
        text.chunk_chars.observe(chars)
        if seconds is None:
            text.first_char.observe(time.monotonic() - call.began)
        else:
            text.inter_chunk.observe(seconds)

    def on_end(self, call: Call) -> None:
        if call.rpc_type:
            method = self._calls.get(call.method, call.rpc_type)
            method.handled[call.status].inc()
            method.seconds.observe(call.seconds)
        if call.limit:
            self._refused.labels(call.limit).inc()
        if call.reason:
            self._texts.count_finish(call.model, call.reason)
        if call.resumed:
            self._texts.get(call.model).resumed.inc()
        if call.headers.attempt:
            self._texts.get(call.model).attempts[call.headers.attempt].inc()
        if call.headers.tries > 1:
            self._texts.get(call.model).attempts[PROXY].inc()

    def _is_in(self, stage: Stage) -> bool:
        return self.stage is stage


class _LostLines(Collector):
    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterator[CounterMetricFamily]:
        help_text = "Lines of the log that could not be written"
        yield CounterMetricFamily("charstream_log_lines_lost", help_text, self._count())


class _RowShares(Collector):
    """The share of the rows, for what scales servers or chooses among them, and does not know --max-rows."""

    def __init__(self, rows: Gauge, max_rows: int) -> None:
        self._rows, self._max_rows = rows, max_rows

    def collect(self) -> Iterator[GaugeMetricFamily]:
        help_text = "Texts that have a row of the batch, by the number of rows (--max-rows)"
        shares = GaugeMetricFamily("charstream_rows_used_ratio", help_text, labels=["model"])
        for sample in (sample for family in self._rows.collect() for sample in family.samples):
            shares.add_metric([sample.labels["model"]], sample.value / self._max_rows)
        yield shares


class _Method:
    """Metrics of one RPC."""

    def __init__(self, calls: "_Calls", method: str, rpc_type: str) -> None:
        labels = (rpc_type, *method.split("/"))
        self.started = calls.started.labels(*labels)
        self.seconds = calls.seconds.labels(*labels)
        # All of them from the start: a rate cannot be taken of a counter that begins at 1.
        self.handled = {code: calls.handled.labels(*labels, code.name) for code in StatusCode}


class _Calls:
    """grpc_server_*, the names that other servers use too."""

    def __init__(self, registry: CollectorRegistry, methods: Mapping[str, str]) -> None:
        labels = ["grpc_type", "grpc_service", "grpc_method"]
        self.started = Counter("grpc_server_started_total", "RPCs that began", labels, registry=registry)
        self.handled = Counter(
            "grpc_server_handled_total", "RPCs that ended, by their status", [*labels, "grpc_code"], registry=registry
        )
        self.seconds = Histogram(
            "grpc_server_handling_seconds", "From headers to status", labels, registry=registry, buckets=CALL_SECONDS
        )
        self._methods = {method: _Method(self, method, rpc_type) for method, rpc_type in methods.items()}

    def get(self, method: str, rpc_type: str) -> _Method:
        """Return the metrics of "package.Service/Method", which must be served here."""
        if method not in self._methods:
            self._methods[method] = _Method(self, method, rpc_type)
        return self._methods[method]


class _Text:
    """Metrics of one model's texts, as their readers see them."""

    def __init__(self, texts: "_Texts", model: str) -> None:
        self.first_char = texts.first_char.labels(model)
        self.inter_chunk = texts.inter_chunk.labels(model)
        self.chunk_chars = texts.chunk_chars.labels(model)
        self.resumed = texts.resumed.labels(model)
        self.attempts = {kind: texts.attempts.labels(model, kind) for kind in (*ATTEMPTS, PROXY)}


class _Texts:
    def __init__(self, registry: CollectorRegistry) -> None:
        def seconds(name: str, help_text: str) -> Histogram:
            return Histogram(f"charstream_{name}_seconds", help_text, ["model"], registry=registry, buckets=SECONDS)

        self.first_char = seconds("time_to_first_char", "From a call's headers to the first message of a text")
        self.inter_chunk = seconds("inter_chunk", "Between two messages of a text")
        self.chunk_chars = Histogram(
            "charstream_chunk_chars", "Characters of a message", ["model"], registry=registry, buckets=POWERS_OF_2
        )
        self.resumed = Counter(
            "charstream_resumed_total",
            "Texts that went on from a token or a text received",
            ["model"],
            registry=registry,
        )
        self.attempts = Counter(
            "charstream_attempts_total",
            "Calls that were asked for elsewhere before, or are at the same time, by the reason that the caller gives",
            ["model", "kind"],
            registry=registry,
        )
        self._finished = Counter(
            "charstream_finished_total", "Calls whose text ended, by the reason", ["model", "reason"], registry=registry
        )
        self._models: dict[str, _Text] = {}

    def get(self, model: str) -> _Text:
        """Return the metrics of the model "NAME VERSION"."""
        if model not in self._models:
            self._models[model] = _Text(self, _name(model))
        return self._models[model]

    def count_finish(self, model: str, reason: str) -> None:
        self._finished.labels(_name(model), reason).inc()


def _name(model: str) -> str:
    return model.partition(" ")[0]
