"""Compare what a real Prometheus says of a server under load with what its clients counted themselves.

    python -m benchmarks.speed.scrape [--seconds 120]

While readers take texts, go on with them and are refused now and then, Prometheus reads the server. Then every query of
the dashboard, and what every alert looks at, must have an answer; rates of calls and characters must be those of the
clients, to 2 %. Needs Prometheus: make prometheus.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
from pydantic import Field

from benchmarks.support.load import open_stub
from benchmarks.support.machine import describe_machine
from benchmarks.support.prometheus import (
    SCRAPE_SECONDS,
    Prometheus,
    alert_queries,
    dashboard_queries,
    free_port,
    run_prometheus,
)
from benchmarks.support.servers import given_or_untrained, serving
from charstream.settings import Settings, parse
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

PROMPT, TEXT_CHARS = "To be, or not to be: ", 2000
TOLERANCE = 0.02
GENERATE = 'grpc_server_handled_total{grpc_method="Generate",grpc_code="%s"}'
METRICS = {
    "calls": GENERATE % "OK",
    "refusals": GENERATE % "RESOURCE_EXHAUSTED",
    "characters": 'charstream_chars_total{kind="generated"}',
}


class ScrapeSettings(Settings):
    """Compare what Prometheus says of a server with what its clients counted."""

    bundle: Path | None = Field(None, description="the bundle to serve (default: an untrained LSTM 2x128)")
    streams: int = Field(16, ge=2, le=256, description="texts at a time; half of them run")
    seconds: float = Field(120.0, ge=20, description="duration of the load")


# The clients' counts by METRICS: (time.time(), how many) of each event.
Counts = dict[str, list[tuple[float, int]]]


async def load(address: str, streams: int, seconds: float) -> Counts:
    """Load the server; each text that has begun is read to its end."""
    counts, end = {name: list[tuple[float, int]]() for name in METRICS}, time.time() + seconds
    async with open_stub(address) as stub:
        readers = [_read(stub, seed, end, counts) for seed in range(streams)]
        await asyncio.gather(*readers, _ask_for_too_much(stub, streams // 2 + streams, end, counts))
    return counts


async def _read(stub: pb_grpc.TextGenerationStub, seed: int, end: float, counts: Counts) -> None:
    """Read texts; every second one goes on from the end of the one before."""
    token = b""
    while time.time() < end:
        request = pb.GenerateRequest(max_chars=TEXT_CHARS, return_token=True, resume_token=token)
        if not token:
            request.prompt, request.seed = PROMPT, seed
        async for message in stub.Generate(request):
            counts["characters"].append((time.time(), len(message.text)))
        counts["calls"].append((time.time(), 1))
        token = b"" if token else message.finish.resume_token


async def _ask_for_too_much(stub: pb_grpc.TextGenerationStub, texts: int, end: float, counts: Counts) -> None:
    """Ask now and then for as many texts as the server has room for, while others run."""
    while time.time() < end:
        try:
            async for _ in stub.Generate(pb.GenerateRequest(n=texts)):
                raise SystemExit("the server has room for more texts than its limit")
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
        counts["refusals"].append((time.time(), 1))
        await asyncio.sleep(0.5)


def count_unanswered(prometheus: Prometheus, at: float) -> int:
    """Print how many series each query has; return how many queries have none."""
    missing = 0
    for where, query in [*dashboard_queries("30s"), *alert_queries()]:
        series = len(prometheus.query(query, at))
        missing += not series
        print(f"{series or 'NONE':>4}  {where}: {query}")
    return missing


def count_differences(prometheus: Prometheus, counts: Counts, end: float, seconds: float) -> int:
    """Compare rates while the load ran, and sums after its end; return how many differ too much."""
    at, window, now = end - SCRAPE_SECONDS, int(seconds - 2 * SCRAPE_SECONDS), time.time()
    rows = []
    for name, metric in METRICS.items():
        first, last = prometheus.span(metric, window, at)
        (rate,) = prometheus.query(f"sum(rate({metric}[{window}s]))", at)
        seen = sum(size for when, size in counts[name] if first < when <= last)
        (total,) = prometheus.query(f"sum({metric})", now)
        rows += [
            (f"{name} a second", rate, seen / (last - first)),
            (f"{name}, all", total, sum(size for _, size in counts[name])),
        ]
    return sum(not _agree(*row) for row in rows)


def _agree(name: str, prometheus: float, client: float) -> bool:
    difference = prometheus / client - 1
    print(f"{name:24} Prometheus {prometheus:14,.2f}   client {client:14,.2f}   {difference:+.2%}")
    return abs(difference) <= TOLERANCE


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ScrapeSettings, argv, command="python -m benchmarks.speed.scrape")
    port, streams = free_port(), settings.streams
    limits = ("--max-rows", str(streams // 2), "--max-waiting", str(streams), "--max-continuations", str(2 * streams))
    with given_or_untrained(settings.bundle, hidden=128) as bundle, tempfile.TemporaryDirectory() as name:
        print(describe_machine(), flush=True)
        with (
            serving(bundle, "--metrics-port", str(port), "--no-log-calls", *limits) as server,
            run_prometheus(Path(name), port) as prometheus,
        ):
            prometheus.wait_for_scrape(0.0)
            counts = asyncio.run(load(server.address, streams, settings.seconds))
            end = time.time()
            prometheus.wait_for_scrape(end)
            missing = count_unanswered(prometheus, end - SCRAPE_SECONDS)
            differing = count_differences(prometheus, counts, end, settings.seconds)
    print(f"{missing} queries without an answer; {differing} counts differ by more than {TOLERANCE:.0%}")
    return 1 if missing or differing else 0


if __name__ == "__main__":
    sys.exit(main())
