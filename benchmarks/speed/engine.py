"""An engine without gRPC, whose texts never wait for a reader."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from bundle.manifest import Manifest
from server.engine.engine import Engine
from server.engine.messages import Cancel, Chunking, Handled, Output, Request, Sampling, Shutdown
from server.engine.state_store import Store

__all__ = ["MAX_BATCH", "Meter", "engine_chars_per_second", "request", "run_engine"]

UNLIMITED = 2**31
MAX_BATCH = 256  # rows of a run on the processor, as the server has them


class Meter:
    """Counts the characters that an engine delivers."""

    def __init__(self) -> None:
        self.chars = 0

    engine: Engine

    def deliver(self, outputs: list[Output]) -> None:
        self.engine.submit(Handled(1, 0.0))
        self.chars += sum(len(output.text) for output in outputs)


@contextmanager
def run_engine(store: Store, manifest: Manifest, meter: Meter, *, chunk_delay: float) -> Iterator[Engine]:
    """Run a warmed up engine."""

    def fail(error: BaseException) -> None:
        raise SystemExit(f"the engine broke: {error}")

    engine = Engine(
        store,
        manifest,
        chunk_delay=chunk_delay,
        prefix_bytes=0,
        max_wait=3600.0,
        deliver=meter.deliver,
        failed=fail,
    )
    meter.engine = engine
    engine.start_warm()
    try:
        yield engine
    finally:
        engine.submit(Shutdown())
        engine.join()


def request(stream: int) -> Request:
    """Return a request for a text that pauses for nobody and does not end."""
    text = Request(np.zeros(0, np.int64), 0, UNLIMITED, Sampling(0.8), stream, chunking=Chunking(10.0))
    return replace(text, stream=stream, window=UNLIMITED, submitted=time.monotonic())


def engine_chars_per_second(store: Store, manifest: Manifest, rows: int, chunk_delay: float, seconds: float) -> float:
    """Return the characters a second of `rows` texts, for which the store must have room."""
    meter = Meter()
    with run_engine(store, manifest, meter, chunk_delay=chunk_delay) as engine:
        for stream in range(rows):
            engine.submit(request(stream))
        time.sleep(seconds / 5)
        chars, begin = meter.chars, time.perf_counter()
        time.sleep(seconds)
        speed = (meter.chars - chars) / (time.perf_counter() - begin)
        for stream in range(rows):
            engine.submit(Cancel(stream))
    return speed
