"""Time to the first character with one of three replicas stopped now and then, with and without hedging.

    python -m benchmarks.replicas.hedging [--rounds 3]

Short texts begin by the clock, at the client's own three addresses. Every few seconds replica 1 is stopped
(SIGSTOP) for 2 s. Both cases run in turn; the added load is the share of calls that were sent as hedges.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.replicas.replicas import Replicas
from benchmarks.support.load import percentiles
from benchmarks.support.machine import describe_machine
from benchmarks.support.rounds import measure_in_turn, rounds_parser
from benchmarks.support.servers import untrained_bundle
from client import AsyncClient

COUNT = 3
STOPPED_SECONDS = 2.0
CHARS = 20


async def _measure(
    replicas: Replicas, hedge_after: str | None, seconds: float, rate: float, every: float
) -> list[float]:
    """Return the seconds until each first character, and last the share of calls that were hedges."""
    async with AsyncClient(replicas.addresses, hedge_after=hedge_after) as client:
        times: list[float] = []

        async def read(intended: float) -> None:
            await asyncio.sleep(intended - time.perf_counter())
            stream = client.stream("", max_chars=CHARS)
            async for _ in stream:
                times.append(time.perf_counter() - intended)
                break
            stream.cancel()

        async def stop_now_and_then() -> None:
            while True:
                await asyncio.sleep(every - STOPPED_SECONDS)
                with replicas.freeze(0):
                    await asyncio.sleep(STOPPED_SECONDS)

        begin = time.perf_counter()
        stopping = asyncio.create_task(stop_now_and_then())
        try:
            await asyncio.gather(*(read(begin + number / rate) for number in range(int(seconds * rate))))
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
        counts = client.counts
    return [*times, counts.hedges / counts.calls]


def _measure_now(*given: object) -> list[float]:
    return asyncio.run(_measure(*given))  # type: ignore[arg-type]


def main() -> int:
    parser = rounds_parser("replicas.hedging", __doc__, rounds=3, seconds=60)
    parser.add_argument("--rate", type=float, default=20, help="texts a second (%(default)s)")
    parser.add_argument("--every", type=float, default=20, help="seconds from one stop to the next (%(default)s)")
    parser.add_argument("--models", type=Path, help="folder of a bundle; default: an untrained LSTM 2x64")
    parser.add_argument("--hedge-after", default="p95", help="a percentile, as the client takes it (%(default)s)")
    settings = parser.parse_args()
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        models = (
            settings.models or untrained_bundle(Path(folder, "models", "tiny"), hidden=64, precisions=["fp32"]).parent
        )
        with Replicas([models] * COUNT, "--engines", "0", "--threads", "1", "--no-log-calls") as replicas:
            measure = partial(_measure_now, replicas)
            rest = (settings.seconds, settings.rate, settings.every)
            cases: dict[str, Callable[[], list[float]]] = {
                "without": partial(measure, None, *rest),
                f"hedge_after={settings.hedge_after}": partial(measure, settings.hedge_after, *rest),
            }
            found = measure_in_turn(cases, settings.rounds)
    p99 = []
    for name, rounds in found.items():
        times = [1e3 * value for each in rounds for value in each[:-1]]
        shares = [each[-1] for each in rounds]
        middle, high = percentiles(times)
        p99.append(high)
        print(
            f"{name}: first character p50 {middle:.0f} ms, p99 {high:.0f} ms, longest {max(times):.0f} ms, "
            f"{len(times):,} texts; {100 * sum(shares) / len(shares):.1f} % of all calls were hedges"
        )
    print(f"p99 with hedging / without: {p99[1] / p99[0]:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
