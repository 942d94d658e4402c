"""An engine without gRPC: texts that never wait for a reader."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event

import numpy as np

from bundle.manifest import Manifest
from server.engine.engine import Engine
from server.engine.messages import Cancel, Chunking, Handled, Output, Request, Sampling, Shutdown
from server.engine.state_store import Store

__all__ = ["MAX_BATCH", "Meter", "engine_chars_per_second", "request", "started"]

UNLIMITED = 2**31
MAX_BATCH = 256  # rows of a run on the processor, as the server has them


class Meter:
    """Counts the characters that an engine delivers."""

    def __init__(self) -> None:
        self.chars, self.finished, self.changed = 0, 0, Event()

    engine: Engine

    def deliver(self, outputs: list[Output]) -> None:
        self.engine.submit(Handled(1, 0.0))
        self.chars += sum(len(output.text) for output in outputs)
        self.finished += sum(output.finish is not None for output in outputs)
        self.changed.set()


@contextmanager
def started(
    store: Store, manifest: Manifest, meter: Meter, *, chunk_delay: float, prefix_bytes: int = 0
) -> Iterator[Engine]:
    """A running, warmed up engine."""

    def failed(error: BaseException) -> None:
        raise SystemExit(f"the engine broke: {error}")

    engine = Engine(
        store,
        manifest,
        chunk_delay=chunk_delay,
        prefix_bytes=prefix_bytes,
        max_wait=3600.0,
        deliver=meter.deliver,
        failed=failed,
    )
    meter.engine = engine
    engine.start_warm()
    try:
        yield engine
    finally:
        engine.submit(Shutdown())
        engine.join()


def request(stream: int, *, chars: int = UNLIMITED, prompt_chars: int = 0, delay: float = 10.0) -> Request:
    """A text that pauses for nobody."""
    prompt = np.random.default_rng(stream).integers(0, 60, prompt_chars)
    text = Request(prompt, prompt_chars, chars, Sampling(0.8), stream, chunking=Chunking(delay))
    return replace(text, stream=stream, window=UNLIMITED, submitted=time.monotonic())


def engine_chars_per_second(store: Store, manifest: Manifest, rows: int, chunk_delay: float, seconds: float) -> float:
    """Of so many texts, which the store must have room for."""
    meter = Meter()
    with started(store, manifest, meter, chunk_delay=chunk_delay) as engine:
        for stream in range(rows):
            engine.submit(request(stream))
        time.sleep(seconds / 5)
        chars, begin = meter.chars, time.perf_counter()
        time.sleep(seconds)
        speed = (meter.chars - chars) / (time.perf_counter() - begin)
        for stream in range(rows):
            engine.submit(Cancel(stream))
    return speed
