"""The memory of an engine alone; benchmarks/speed/memory.py runs it in a process of its own."""

import os
import time
from pathlib import Path

from benchmarks.speed.engine import MAX_BATCH, Meter, request, started
from benchmarks.support.machine import resident_megabytes
from bundle.read import decode_file, full_file, read_bundle
from server.engine.messages import Cancel
from server.runtime.host_runner import Runner
from server.runtime.host_states import HostStore

__all__ = ["measure"]


def measure(folder: str, streams: int, rounds: int, seconds: float) -> None:
    """Prints the memory before, while and after so many texts run."""
    bundle = read_bundle(Path(folder))
    manifest, precision = bundle.manifest, bundle.manifest.precisions[-1]
    files = (bundle.files[decode_file(precision)], bundle.files[full_file(precision)])
    runner = Runner(*files, manifest.model, len(manifest.symbols), threads=1)
    meter = Meter()
    with started(HostStore(runner, manifest, streams, MAX_BATCH), manifest, meter, chunk_delay=0.02) as engine:
        before = resident_megabytes(os.getpid())
        print(f"engine, warmed up, {precision}: {before:.0f} MB")
        for number in range(rounds):
            chars = meter.chars
            for stream in range(streams):
                engine.submit(request(stream))
            largest, begin = 0.0, time.monotonic()
            while time.monotonic() - begin < seconds:
                time.sleep(0.2)
                largest = max(largest, resident_megabytes(os.getpid()))
            for stream in range(streams):
                engine.submit(Cancel(stream))
            time.sleep(1)
            after = resident_megabytes(os.getpid())
            print(
                f"engine, round {number + 1}: {streams:,} texts, {meter.chars - chars:,} characters, at most "
                f"{largest:.0f} MB; after them {after:.0f} MB ({after - before:+.0f})",
                flush=True,
            )
