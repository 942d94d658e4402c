"""Measure engine processes without gRPC beside bare sessions in threads of one process, on the same rows.

    python -m benchmarks.processes.alone

The engines are driven by an asyncio loop in this process, by the same `EnginePool` that the server has, with texts that
never wait for a reader. Two bare sessions run the decode graph in two threads, half of the rows each, 16 steps a run. A
round has all cases, in turn; ratios are within a round.
"""

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field

from benchmarks.speed.engine import request
from benchmarks.speed.graphs import time_graph
from benchmarks.support.machine import describe_machine
from benchmarks.support.rounds import median_ratio
from benchmarks.support.servers import given_or_untrained
from bundle.read import Bundle, decode_file, full_file, read_bundle
from charstream.settings import Settings, parse
from server.engine.messages import Cancel, Command, Handled, Output, PoolObserver, RowState
from server.processes.pool import EnginePool
from server.processes.process import start_process
from server.runtime.host_runner import Runner
from server.settings import ServerSettings

ENGINES = (1, 2)


class AloneSettings(Settings):
    """Measure engine processes without gRPC beside bare sessions."""

    bundle: Path | None = Field(None, description="the bundle to measure (default: an untrained LSTM 2x512)")
    precision: Literal["fp32", "int8"] = Field("int8", description="arithmetic of the matmuls")
    rows: tuple[int, ...] = Field((64, 256), description="texts at a time")
    chunk_delay: float = Field(20.0, ge=1, description="milliseconds of a round of the engines")
    rounds: int = Field(5, ge=1, description="rounds, of which the medians are printed")
    seconds: float = Field(2.0, gt=0, description="duration of each measurement")


class Pool:
    """Engine processes of one model, and a count of the characters that they deliver."""

    def __init__(self, bundle: Bundle, settings: ServerSettings, engines: int) -> None:
        self.chars, self._numbers = 0, itertools.count()
        rows = [(settings.max_rows + index) // engines for index in range(engines)]
        each = [settings.model_copy(update={"max_rows": share}) for share in rows]
        self._start = lambda index, is_wanted=lambda: True: start_process(bundle, each[index], is_wanted)
        self._pool = EnginePool(
            self._start,
            rows,
            bundle.manifest.vocabulary,
            RowState.at_start(bundle.manifest),
            deliver=self._deliver,
            give_up=_fail,
            failed=partial(_fail, -1),
            observer=PoolObserver(),
        )
        self._engines = engines

    async def __aenter__(self) -> "Pool":
        await self._pool.connect([await asyncio.to_thread(self._start, index) for index in range(self._engines)])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.stop()

    async def measure(self, rows: int, seconds: float) -> float:
        """Return the characters a second of `rows` texts."""
        texts = list(itertools.islice(self._numbers, rows))
        for number in texts:
            self._pool.submit(request(number))
        await asyncio.sleep(seconds / 4)
        chars, begin = self.chars, time.perf_counter()
        await asyncio.sleep(seconds)
        speed = (self.chars - chars) / (time.perf_counter() - begin)
        for number in texts:
            self._pool.submit(Cancel(number))
        await asyncio.sleep(seconds / 8)  # their last run ends
        return speed

    def _deliver(self, outputs: list[Output], posted: float, submit: Callable[[Command], None]) -> None:
        self.chars += sum(len(output.text) for output in outputs)
        submit(Handled(1, time.monotonic() - posted))


def _fail(stream: int, error: BaseException) -> None:
    raise SystemExit(f"the engines broke: {error}")


class Bare:
    """Sessions of the decode graph, one for each of some threads of this process."""

    def __init__(self, bundle: Bundle, settings: AloneSettings) -> None:
        self._manifest, self._seconds = bundle.manifest, settings.seconds
        files = (bundle.files[decode_file(settings.precision)], bundle.files[full_file(settings.precision)])
        shape, vocab = bundle.manifest.model, len(bundle.manifest.symbols)
        self._runners = [Runner(*files, shape, vocab, threads=1) for _ in range(max(ENGINES))]

    def measure(self, rows: int, threads: int) -> float:
        """Return the characters a second of all threads together, among which the rows are divided."""
        share = rows // threads

        def run(number: int) -> float:
            return share / time_graph(self._runners[number], self._manifest, share, self._seconds, full=False)

        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(run, range(threads)))


async def measure(settings: AloneSettings, folder: Path, rows: int) -> dict[str, list[float]]:
    """Return the speeds of each case, by round."""
    bundle = read_bundle(folder)
    given = ServerSettings(
        models=folder,
        precision=settings.precision,
        threads=1,
        max_rows=rows,
        chunk_delay=settings.chunk_delay,
        prefix_cache=0,
    )
    bare, speeds = Bare(bundle, settings), dict[str, list[float]]()
    async with Pool(bundle, given, ENGINES[0]) as one, Pool(bundle, given, ENGINES[1]) as two:
        pools = {ENGINES[0]: one, ENGINES[1]: two}
        for number in range(settings.rounds):
            print(f"{rows} rows: round {number + 1} of {settings.rounds}", file=sys.stderr)
            for count in ENGINES[:: 1 if number % 2 == 0 else -1]:
                bare_speed = await asyncio.to_thread(bare.measure, rows, count)
                speeds.setdefault(f"bare {count}", []).append(bare_speed)
                speeds.setdefault(f"engines {count}", []).append(await pools[count].measure(rows, settings.seconds))
    return speeds


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(AloneSettings, argv, command="python -m benchmarks.processes.alone")
    print(f"{describe_machine()}; {settings.precision}, {settings.chunk_delay:g} ms", flush=True)
    with given_or_untrained(settings.bundle) as folder:
        for rows in settings.rows:
            speeds = asyncio.run(measure(settings, folder, rows))
            medians = ", ".join(f"{name} {statistics.median(speeds[name]):,.0f}" for name in sorted(speeds))
            print(f"{rows} rows, chars/s: {medians}")
            pairs = (("engines 1", "bare 1"), ("engines 2", "bare 2"), ("engines 2", "engines 1"), ("bare 2", "bare 1"))
            ratios = (f"{a} / {b} {median_ratio(speeds[a], speeds[b]):.2f}" for a, b in pairs)
            print(f"{rows} rows, medians within a round: {', '.join(ratios)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
