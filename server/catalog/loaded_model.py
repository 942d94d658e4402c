"""A model that is ready: its graphs, its engine, its streams, and the memory they take."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import ON_DEVICE, Manifest, Precision
from bundle.read import Bundle, decode_file, full_file
from protos import charstream_pb2 as pb
from server.engine.engine import Engine
from server.engine.messages import Output, Shutdown
from server.engine.state_store import LOGPROBS
from server.observe.engine_metrics import ModelInfo
from server.observe.metrics import Metrics
from server.runtime.device_states import STAGED, full_steps
from server.runtime.host_runner import runtime_version
from server.runtime.load import BEST, load
from server.settings import ServerSettings
from server.streaming.open_streams import Streams
from server.streaming.text_stream import StreamLimits

__all__ = ["ServedModel", "memory_of", "new_streams", "serve"]

# A graph is held as its file, and as what onnxruntime makes of it; and each keeps, for its runs, about so many arrays
# [max_batch, hidden] a layer (measured: docs/decisions.md).
GRAPHS, GRAPH_COPIES, WORK_ARRAYS = 2, 2, 16
# Of a float32.
BYTES = 4


@dataclass(frozen=True)
class ServedModel:
    """A model that is ready.

    Attributes:
        provider, device: where it runs.
        numerics: digest of the probe's result on this machine.
        memory: bytes that it may take.
    """

    manifest: Manifest
    digest: str
    precision: Precision
    provider: str
    device: str
    numerics: str
    memory: int
    streams: Streams
    engine: Engine

    @cached_property
    def replica(self) -> pb.Replica:
        """What decides a text beside its request. To be copied, not changed."""
        return pb.Replica(digest=self.digest, precision=self.precision, numerics=self.numerics)

    def __str__(self) -> str:
        shape = self.manifest.model
        return (
            f"{self.manifest.name} {self.manifest.version} ({shape.cell} {shape.layers}x{shape.hidden}, "
            f"{self.precision}, onnxruntime {runtime_version()}, {self.provider}, {self.device}, "
            f"digest {self.digest[:12]}, numerics {self.numerics})"
        )

    def stop(self) -> None:
        """Ends the engine, at the end of the tick that runs."""
        self.engine.submit(Shutdown())
        self.engine.join()


def new_streams(settings: ServerSettings) -> Streams:
    """Of a model that will be served. To be called in the event loop."""
    limits = StreamLimits(
        window=settings.stream_buffer,
        tick=settings.chunk_seconds,
        max_wait=settings.max_wait,
        max_seconds=settings.max_seconds,
        reader_timeout=settings.reader_timeout,
    )
    return Streams(settings.most_texts, limits)


def serve(
    bundle: Bundle,
    settings: ServerSettings,
    streams: Streams,
    metrics: Metrics,
    engine_failed: Callable[[BaseException], None],
) -> ServedModel:
    """Makes the graphs ready, warms up and starts the engine; takes seconds.

    The engine's thread must begin in the thread that made the graphs: see server/runtime/host_runner.py.

    Raises:
        CannotRun: onnxruntime refuses a graph, or the probe does not come to what the manifest says.
        RuntimeMissing: the provider cannot be had.
    """
    manifest = bundle.manifest
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
        failed=engine_failed,
        observer=metrics.engine(info),
    )
    streams.submit = engine.submit
    engine.start_warm()
    memory = memory_of(manifest, settings, precision)
    return ServedModel(manifest, bundle.digest, precision, provider, loaded.device, numerics, memory, streams, engine)


def _deliver_to(streams: Streams) -> Callable[[list[Output]], None]:
    """The engine does not keep its streams, which keep it: so both are freed as soon as nobody has them."""
    kept = weakref.ref(streams)

    def deliver(outputs: list[Output]) -> None:
        found = kept()
        if found:
            found.deliver(outputs)

    return deliver


def memory_of(manifest: Manifest, settings: ServerSettings, precision: Precision | None = None) -> int:
    """Bytes that the model may take, at most: graphs, states, log-probabilities of a run, and prompts' states; with
    those on a device.

    Args:
        precision: the one that is served; None for the one that will probably be.
    """
    shape, vocab = manifest.model, len(manifest.symbols)
    precision = precision or _probable(manifest, settings)
    on_device = precision in ON_DEVICE
    steps = DEVICE_STEPS if on_device else (None,)
    names = {name(precision, number) for name in (decode_file, full_file) for number in steps}
    graphs = sum(record.bytes for name, record in manifest.files.items() if name in names)
    rows = sum(settings.bucket_sizes) + STAGED if on_device else settings.max_rows
    batch = settings.max_rows if on_device else settings.max_batch
    work = GRAPHS * len(steps) * WORK_ARRAYS * shape.layers * batch * shape.hidden * BYTES
    states = 2 * rows * shape.hidden * len(shape.state_names) * BYTES
    bias = settings.max_rows * vocab * BYTES
    if on_device:
        scores = sum(full_steps(settings.max_rows, vocab)) * rows * vocab * BYTES
        return GRAPH_COPIES * graphs + work + states + scores + 2 * bias
    logprobs = max(LOGPROBS, settings.max_batch * vocab) * BYTES
    return GRAPH_COPIES * graphs + work + states + logprobs + bias + settings.prefix_bytes


def _probable(manifest: Manifest, settings: ServerSettings) -> Precision:
    """Whether CUDA loads is not known yet."""
    if settings.precision != "auto":
        return settings.precision
    allowed = [p for p in BEST if p in manifest.precisions and (p in ON_DEVICE) == (settings.provider == "cuda")]
    return next(iter(allowed), "fp32")
