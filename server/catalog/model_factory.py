"""Turns a bundle into a loaded model, with graphs, engine and streams; estimates the memory that they take."""

import asyncio
import weakref
from collections.abc import Callable

from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import ON_DEVICE, Manifest, Precision
from bundle.read import STEP, Bundle, decode_file, full_file
from server.catalog.loaded_model import ServedModel
from server.engine.engine import Engine
from server.engine.messages import Output, Shutdown
from server.engine.state_store import LOGPROBS
from server.observe.engine_metrics import ModelInfo
from server.observe.metrics import Metrics
from server.runtime.device_states import STAGED, full_steps
from server.runtime.load import BEST, load
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
        """Make the graphs ready, warm up and start the engine.

        The engine's thread must begin in the thread that made the graphs: see server/runtime/host_runner.py.
        """
        settings, manifest = self._settings, bundle.manifest
        loaded = load(bundle, settings)
        precision, provider, numerics = loaded.precision, loaded.provider, loaded.numerics
        info = ModelInfo(manifest.name, manifest.version, bundle.digest, precision, provider, numerics)
        engine = Engine(
            loaded.store,
            manifest,
            chunk_delay=settings.chunk_seconds,
            prefix_bytes=settings.prefix_bytes,
            max_wait=settings.max_wait,
            deliver=_deliver_to(streams),
            failed=self._on_engine_error,
            observer=self._metrics.engine(info),
        )
        streams.submit = engine.submit
        engine.start_warm()

        # In this process, beside the event loop, whatever process the engine has: here are the states of sequences.
        runner = StepRunner(bundle.files[STEP], manifest)
        steps = Steps(runner, self._loop, settings.max_batch, settings.most_texts)
        sequences = Sequences(manifest.model, settings.sequence_bytes, settings.sequence_idle)

        def stop() -> None:
            steps.stop()
            engine.submit(Shutdown())
            engine.join()

        return ServedModel(
            manifest,
            bundle.digest,
            precision,
            provider,
            loaded.device,
            numerics,
            memory_of(manifest, settings, precision),
            streams,
            steps,
            sequences,
            stop,
        )

    def _on_engine_error(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._engine_failed, error)


def _deliver_to(streams: Streams) -> Callable[[list[Output]], None]:
    """Let the engine keep its streams only weakly, as they keep it: so both are freed as soon as nobody has them."""
    kept = weakref.ref(streams)

    def deliver(outputs: list[Output]) -> None:
        found = kept()
        if found:
            found.deliver(outputs)

    return deliver


def memory_of(manifest: Manifest, settings: ServerSettings, precision: Precision | None = None) -> int:
    """Return the most bytes that the model may take, a device's included: its graphs, hidden states, log-probabilities
    of a run, and cached prefixes.

    Args:
        precision: the one that is served; None for the one that will probably be.
    """
    shape, vocab = manifest.model, len(manifest.symbols)
    precision = precision or _probable_precision(manifest, settings)
    on_device = precision in ON_DEVICE
    steps = DEVICE_STEPS if on_device else (None,)
    names = {name(precision, number) for name in (decode_file, full_file) for number in steps}
    graphs = sum(record.bytes for name, record in manifest.files.items() if name in {STEP, *names})
    rows = sum(settings.bucket_sizes) + STAGED if on_device else settings.max_rows
    batch = settings.max_rows if on_device else settings.max_batch
    work = WORK_ARRAYS * batch * (GRAPHS * len(steps) * shape.layers * shape.hidden + vocab) * FLOAT_BYTES
    states = 2 * rows * shape.hidden * len(shape.state_names) * FLOAT_BYTES
    bias = settings.max_rows * vocab * FLOAT_BYTES
    if on_device:
        scores = sum(full_steps(settings.max_rows, vocab)) * rows * vocab * FLOAT_BYTES
        return GRAPH_COPIES * graphs + work + states + scores + 2 * bias
    logprobs = max(LOGPROBS, settings.max_batch * vocab) * FLOAT_BYTES
    return GRAPH_COPIES * graphs + work + states + logprobs + bias + settings.prefix_bytes


def _probable_precision(manifest: Manifest, settings: ServerSettings) -> Precision:
    """Return the precision to expect before the load shows whether CUDA works."""
    if settings.precision != "auto":
        return settings.precision
    allowed = [p for p in BEST if p in manifest.precisions and (p in ON_DEVICE) == (settings.provider == "cuda")]
    return next(iter(allowed), "fp32")
