"""A loaded model."""

from collections.abc import Callable
from dataclasses import dataclass

from bundle.manifest import Manifest, Precision
from server.streaming.open_streams import Streams
from server.streaming.sequences import Sequences
from server.streaming.steps import Steps

__all__ = ["ServedModel"]


@dataclass(frozen=True)
class ServedModel:
    """A model that is ready.

    Attributes:
        provider, device: where it runs; `runtime`: the version of onnxruntime that runs it.
        engines: how many processes run it; 0: the server's own.
        numerics: digest of the probe's result on this machine.
        memory: bytes that it may take.
        steps, sequences: single steps, beside the texts, and the states that are kept for them.
        stop: ends the engine, at the end of the tick that runs.
    """

    manifest: Manifest
    digest: str
    precision: Precision
    provider: str
    device: str
    runtime: str
    engines: int
    numerics: str
    memory: int
    streams: Streams
    steps: Steps
    sequences: Sequences
    stop: Callable[[], None]

    def __str__(self) -> str:
        shape = self.manifest.model
        engines = {0: "", 1: "1 engine, "}.get(self.engines, f"{self.engines} engines, ")
        return (
            f"{self.manifest.name} {self.manifest.version} ({shape.cell} {shape.layers}x{shape.hidden}, "
            f"{self.precision}, onnxruntime {self.runtime}, {self.provider}, {engines}{self.device}, "
            f"at most {self.memory / 1e6:.0f} MB, digest {self.digest[:12]}, numerics {self.numerics})"
        )
