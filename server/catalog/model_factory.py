"""Turns a bundle into a loaded model, with engines and streams; estimates the memory that they take."""

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import ON_DEVICE, Manifest, Precision
from bundle.read import STEP, Bundle, decode_file, full_file
from server.catalog.loaded_model import ServedModel
from server.engine.engine import Engine
from server.engine.messages import RowState, Shutdown
from server.engine.state_store import LOGPROBS
from server.observe.engine_metrics import ModelInfo
from server.observe.metrics import Metrics
from server.processes.cores import engines_for, usable_cores
from server.processes.pool import EnginePool
from server.processes.process import StartedProcess, start_process, stop_all
from server.runtime.device_states import STAGED, full_steps
from server.runtime.host_runner import CannotRun, may_have_cuda, runtime_version
from server.runtime.load import BEST, files_to_load, load
from server.runtime.step_runner import StepRunner
from server.settings import ServerSettings
from server.streaming.open_streams import Streams
from server.streaming.sequences import Sequences
from server.streaming.steps import Steps
from server.streaming.text_stream import StreamLimits

__all__ = ["ModelFactory", "memory_of"]

# A graph is held as its file, and as what onnxruntime makes of it; for its runs each graph keeps about 16 arrays of
# [max_batch, hidden] per layer, and both together about as many of [max_batch, V] (measured: docs/decisions.md).
GRAPHS, GRAPH_COPIES, WORK_ARRAYS = 2, 2, 16
FLOAT_BYTES = 4
# An engine process beside its model (measured: docs/decisions.md, "Engines in processes").
PROCESS_BYTES = 70_000_000


class ModelFactory:
    """Makes loaded models. To be made in the event loop.

    Args:
        engine_failed: is called in the event loop when an engine breaks.
    """

    def __init__(
        self, settings: ServerSettings, metrics: Metrics, engine_failed: Callable[[BaseException], None]
    ) -> None:
        self._settings, self._metrics, self._engine_failed = settings, metrics, engine_failed
        self._loop = asyncio.get_running_loop()

    def memory_of(self, manifest: Manifest) -> int:
        """Return the bytes that the model may take when it is loaded."""
        return memory_of(manifest, self._settings)

    def prepare(self) -> Callable[[Bundle], ServedModel]:
        """Begin, in the event loop, to make a model. Return a function that does the rest in the loader's thread.

        It takes seconds. It raises CannotRun if onnxruntime refuses a graph, or the probe does not come to what the
        manifest says; RuntimeMissing if the provider is not there.
        """
        settings = self._settings
        limits = StreamLimits(
            window=settings.stream_buffer,
            chunk_seconds=settings.chunk_seconds,
            max_wait=settings.max_wait,
            max_seconds=settings.max_seconds,
            reader_timeout=settings.reader_timeout,
        )
        streams = Streams(settings.most_texts, limits)
        return lambda bundle: self._serve(bundle, streams)

    def _serve(self, bundle: Bundle, streams: Streams) -> ServedModel:
        """Load the model where its engines will run, warm up and start them."""
        engines = engine_count(bundle.manifest, self._settings)
        return self._serve_by_processes(bundle, streams, engines) if engines else self._serve_here(bundle, streams)

    def _serve_here(self, bundle: Bundle, streams: Streams) -> ServedModel:
        """Run the engine in a thread of this process.

        It must begin in the thread that made the graphs: see server/runtime/host_runner.py.
        """
        settings, manifest = self._settings, bundle.manifest
        loaded = load(bundle, settings)
        info = _info(bundle, loaded.precision, loaded.provider, loaded.numerics)
        engine = Engine(
            loaded.store,
            manifest,
            chunk_delay=settings.chunk_seconds,
            prefix_bytes=settings.prefix_bytes,
            max_wait=settings.max_wait,
            deliver=_weakly(streams, Streams.deliver),
            failed=self._on_engine_error,
            observer=self._metrics.engine(info),
        )
        streams.submit = engine.submit
        engine.start_warm()

        def stop() -> None:
            engine.submit(Shutdown())
            engine.join()

        return self._make_model(bundle, info, loaded.device, runtime_version(), 0, streams, stop)

    def _serve_by_processes(self, bundle: Bundle, streams: Streams, count: int) -> ServedModel:
        """Run the engines in processes of their own."""
        every = [_settings_of(self._settings, index, count) for index in range(count)]
        started = _start_all(bundle, every)
        ready = started[0].ready
        # What successors need: the bundle's folder may be gone, or hold another version, when one dies.
        names = files_to_load(ready.precision)
        small = replace(bundle, files={name: data for name, data in bundle.files.items() if name in names})
        info = _info(bundle, ready.precision, ready.provider, ready.numerics)
        fixed = {"precision": ready.precision}

        def start(index: int, is_wanted: Callable[[], bool]) -> StartedProcess:
            return start_process(small, every[index].model_copy(update=fixed), is_wanted)

        pool = EnginePool(
            start,
            [settings.max_rows for settings in every],
            bundle.manifest.vocabulary,
            RowState.at_start(bundle.manifest),
            deliver=_weakly(streams, Streams.receive),
            give_up=_weakly(streams, Streams.fail),
            failed=self._engine_failed,
            observer=self._metrics.engines(info),
        )
        streams.submit = pool.submit
        asyncio.run_coroutine_threadsafe(pool.connect(started), self._loop).result()
        return self._make_model(bundle, info, ready.device, ready.runtime, count, streams, pool.stop)

    def _make_model(
        self,
        bundle: Bundle,
        info: ModelInfo,
        device: str,
        runtime: str,
        engines: int,
        streams: Streams,
        stop: Callable[[], None],
    ) -> ServedModel:
        settings, shape = self._settings, bundle.manifest.model
        # In this process, beside the event loop, wherever the engines are: here are the states of sequences.
        runner = StepRunner(bundle.files[STEP], bundle.manifest)
        steps = Steps(runner, self._loop, settings.max_batch, settings.most_texts)

        def stop_all() -> None:
            steps.stop()
            stop()

        return ServedModel(
            bundle.manifest,
            bundle.digest,
            precision=info.precision,
            provider=info.provider,
            device=device,
            runtime=runtime,
            engines=engines,
            numerics=info.numerics,
            memory=memory_of(bundle.manifest, settings, info.precision),
            streams=streams,
            steps=steps,
            sequences=Sequences(shape, settings.sequence_bytes, settings.sequence_idle),
            stop=stop_all,
        )

    def _on_engine_error(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._engine_failed, error)


def _weakly(streams: Streams, method: Callable[..., None]) -> Callable[..., None]:
    """Let engines keep their streams only weakly, as they keep them: so both are freed as soon as nobody has them."""
    kept = weakref.ref(streams)

    def call(*arguments: Any) -> None:
        found = kept()
        if found:
            method(found, *arguments)

    return call


def _info(bundle: Bundle, precision: Precision, provider: str, numerics: str) -> ModelInfo:
    manifest = bundle.manifest
    return ModelInfo(manifest.name, manifest.version, bundle.digest, precision, provider, numerics)


def _start_all(bundle: Bundle, every: list[ServerSettings]) -> list[StartedProcess]:
    """Start an engine process for each of these settings, at the same time. Raises CannotRun, RuntimeMissing."""
    with ThreadPoolExecutor(len(every)) as threads:
        first = threads.submit(start_process, bundle, every[0])
        if len(every) > 1 and _may_be_measured(bundle.manifest, every[0]) and not first.exception():
            # What is fastest is seen once: another measurement may end otherwise.
            fixed = {"precision": first.result().ready.precision}
            every = [settings.model_copy(update=fixed) for settings in every]
        starts = [first, *(threads.submit(start_process, bundle, settings) for settings in every[1:])]
    errors = [error for start in starts if (error := start.exception())]
    started = [start.result() for start in starts if not start.exception()]
    if not errors and any(one.ready != started[0].ready for one in started):
        errors = [CannotRun("engine processes of one model do not compute the same numbers here")]
    if errors:
        stop_all(started)
        raise errors[0]
    return started


def _may_be_measured(manifest: Manifest, settings: ServerSettings) -> bool:
    """Return whether the precision may depend on how fast a device is."""
    may_be_cuda = settings.provider != "cpu" and may_have_cuda()
    return may_be_cuda and settings.precision == "auto" and set(manifest.precisions) >= ON_DEVICE


def engine_count(manifest: Manifest, settings: ServerSettings) -> int:
    """Return how many processes run the model; 0: the server's own."""
    if settings.engines != "auto":
        return min(int(settings.engines), settings.max_rows)
    on_device = settings.provider == "cuda" or settings.precision in ON_DEVICE
    if on_device or (settings.provider == "auto" and ON_DEVICE & set(manifest.precisions) and may_have_cuda()):
        return 1
    return min(engines_for(usable_cores()), settings.max_rows)


def _settings_of(settings: ServerSettings, index: int, count: int) -> ServerSettings:
    """Return the settings of one of several engines, which share rows and memory."""
    if count == 1:
        return settings
    return settings.model_copy(
        update={
            "max_rows": (settings.max_rows + index) // count,
            "prefix_cache": settings.prefix_cache / count,
            "threads": settings.threads or 1,
        }
    )


def memory_of(manifest: Manifest, settings: ServerSettings, precision: Precision | None = None) -> int:
    """Return the most bytes that the model may take, a device's included: its graphs, hidden states, log-probabilities
    of a run, and cached prefixes.

    Args:
        precision: the one that is served; None for the one that will probably be.
    """
    shape, vocab = manifest.model, len(manifest.symbols)
    precision = precision or _probable_precision(manifest, settings)
    on_device, engines = precision in ON_DEVICE, engine_count(manifest, settings)
    steps, names = _steps(precision), graph_files(precision)
    graphs = sum(record.bytes for name, record in manifest.files.items() if name in {STEP, *names})
    rows = sum(settings.bucket_sizes) + STAGED if on_device else settings.max_rows
    batch = settings.max_rows if on_device else settings.max_batch
    work = WORK_ARRAYS * batch * (GRAPHS * len(steps) * shape.layers * shape.hidden + vocab) * FLOAT_BYTES
    states = 2 * rows * shape.hidden * len(shape.state_names) * FLOAT_BYTES
    bias = settings.max_rows * vocab * FLOAT_BYTES
    if on_device:
        scores = sum(full_steps(settings.max_rows, vocab)) * rows * vocab * FLOAT_BYTES
        return max(1, engines) * (GRAPH_COPIES * graphs + work + states + scores + 2 * bias) + engines * PROCESS_BYTES
    logprobs = max(LOGPROBS, settings.max_batch * vocab) * FLOAT_BYTES
    each = GRAPH_COPIES * graphs + work + logprobs
    processes = engines * PROCESS_BYTES + (graphs if engines else 0)
    return max(1, engines) * each + states + bias + settings.prefix_bytes + processes


def graph_files(precision: Precision) -> set[str]:
    """Return the names of the files of which the server makes graphs."""
    return {name(precision, number) for name in (decode_file, full_file) for number in _steps(precision)}


def _steps(precision: Precision) -> tuple[int | None, ...]:
    return DEVICE_STEPS if precision in ON_DEVICE else (None,)


def _probable_precision(manifest: Manifest, settings: ServerSettings) -> Precision:
    """Return the precision to expect before the load shows whether CUDA works."""
    if settings.precision != "auto":
        return settings.precision
    allowed = [p for p in BEST if p in manifest.precisions and (p in ON_DEVICE) == (settings.provider == "cuda")]
    return next(iter(allowed), "fp32")
