"""The peers: what is started, in which environment, how it is spoken to, and with which loads."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DEFAULT_CHUNK", "PEERS", "Load", "Peer"]

DEFAULT_CHUNK = 0  # characters of a message: as the server decides
_MODULE = ("{python}", "-m")


@dataclass(frozen=True)
class Load:
    """Streams, and characters a message; in process, rows of a batch."""

    streams: int
    chunk: int

    @property
    def key(self) -> str:
        return f"{self.streams}x{self.chunk}"


def _loads(streams: Sequence[int], chunks: Sequence[int], *more: Load) -> tuple[Load, ...]:
    return (*(Load(number, chunk) for number in streams for chunk in chunks), *more)


@dataclass(frozen=True)
class Peer:
    """Something that generates text.

    Attributes:
        environment: its folder beside the other peers', and its file of requirements; "" is the project's own.
        protocol: one of benchmarks.peers.readers, or `lines` of a process without a server.
        command: with {python}, {bundle}, {run}, {port} and {http_port} to be filled in.
        path: of a URL.
        batching: in words.
        graph: `step`: a step graph and a draw of its own; a precision: charstream's decode graph.
    """

    name: str
    title: str
    environment: str
    protocol: str
    command: tuple[str, ...]
    batching: str
    loads: tuple[Load, ...] = _loads((1, 64), (1, 8))
    path: str = ""
    graph: str = "step"

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("charstream")

    @property
    def is_copy(self) -> bool:
        """Whether it runs charstream's graph in another server."""
        return self.graph != "step" and not self.is_ours


def _torch(kind: str, title: str) -> Peer:
    command = (*_MODULE, "benchmarks.peers.servers.torch_sampling", "--run", "{run}", "--kind", kind)
    batching = "none: the rows of one tensor begin and end together"
    return Peer(f"torch-{kind}", title, "torch", "lines", command, batching, _loads((1, 64), (1,)))


def _triton(mode: str, title: str, batching: str) -> Peer:
    command = (*_MODULE, "benchmarks.peers.servers.triton_server", "--bundle", "{bundle}", "--port", "{port}")
    more = ("--http-port", "{http_port}", "--mode", mode)
    return Peer(f"triton-{mode}", title, "triton", f"triton-{mode}", (*command, *more), batching)


def _litserve(loop: str, title: str, graph: str, *more: Load) -> Peer:
    command = (*_MODULE, "benchmarks.peers.servers.litserve_server", "--bundle", "{bundle}", "--port", "{port}")
    batching = {
        "batched": "of up to 64 requests, which begin and end together",
        "continuous": "continuous, up to 256 requests",
    }
    name = f"litserve-{loop}" + (f"-{graph}" if graph != "step" else "")
    flags = ("--loop", loop, "--graph", graph)
    loads = _loads((1, 64), (1, 8), *more)
    return Peer(name, title, "litserve", "http", (*command, *flags), batching[loop], loads, "/predict", graph)


def _charstream(precision: str) -> Peer:
    flags = ("--models", "{bundle}", "--port", "{port}", "--precision", precision, "--threads", "1")
    loads = _loads((1, 64, 256), (DEFAULT_CHUNK, 1, 8))
    title = f"charstream, {precision}"
    command = (*_MODULE, "server", *flags)
    return Peer(
        f"charstream-{precision}", title, "", "charstream", command, "continuous, 256 rows", loads, graph=precision
    )


_SERVER = ("--bundle", "{bundle}", "--port", "{port}")
PEERS = (
    _torch("lstm", "torch in process, nn.LSTM as in sample.py"),
    _torch("cells", "torch in process, nn.LSTMCell"),
    Peer(
        "grpc",
        "grpc.aio, one session.run a character",
        "grpc",
        "charstream",
        (*_MODULE, "benchmarks.peers.servers.grpc_server", *_SERVER),
        "none",
    ),
    _triton("stateless", "Triton (pytriton), a request a message", "dynamic, up to 64 requests, 0.5 ms"),
    _triton("decoupled", "Triton (pytriton), decoupled", "dynamic, up to 64 requests, 10 ms"),
    _litserve("batched", "LitServe, batched streaming", "step"),
    _litserve("continuous", "LitServe, ContinuousBatchingLoop", "step", Load(256, 8)),
    _litserve("continuous", "LitServe's loop with our graph, fp32", "fp32", Load(256, 8)),
    _litserve("continuous", "LitServe's loop with our graph, int8", "int8", Load(256, 8)),
    Peer(
        "ray",
        "Ray Serve, batched streaming",
        "ray",
        "http",
        (*_MODULE, "benchmarks.peers.servers.ray_server", *_SERVER),
        "of up to 64 requests, which begin and end together",
        path="/",
    ),
    Peer(
        "bentoml",
        "BentoML, streaming",
        "bentoml",
        "http",
        (
            *_MODULE,
            "bentoml",
            "serve",
            "benchmarks.peers.servers.bentoml_server:Text",
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
        ),
        "none: it batches only calls that return at once",
        path="/generate",
    ),
    _charstream("fp32"),
    _charstream("int8"),
)
