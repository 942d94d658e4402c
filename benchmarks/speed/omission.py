"""Measure one stall with an open and with a closed loop, and draw both (docs/coordinated-omission.png).

    python -m benchmarks.speed.omission --out docs/coordinated-omission.png

The server here answers at once, but for one stall of two seconds, in which every call waits.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from matplotlib.figure import Figure
from pydantic import Field

from charstream.settings import Settings, parse
from loadtest.answers.locust_process import run_locust
from loadtest.measures.distribution import Distribution
from loadtest.settings import LoadtestSettings
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

__all__ = ["main"]

STALL_AT, STALL_SECONDS, RUN_SECONDS = 3.0, 2.0, 8
ANSWER_SECONDS = 0.02
RATE, USERS = 50.0, 4


class OmissionSettings(Settings):
    """Measure a stall of two seconds with an open and with a closed loop, and draw both."""

    out: Path = Field(Path("coordinated-omission.png"), description="the plot")


class StallingServer(pb_grpc.TextGenerationServicer):
    """Answers each call after 20 ms; the first call after three seconds begins a stall of two."""

    def __init__(self) -> None:
        self._begin: float | None = None
        self._stalled_until = 0.0

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        now = asyncio.get_running_loop().time()
        self._begin = self._begin or now
        if not self._stalled_until and now - self._begin > STALL_AT:
            self._stalled_until = now + STALL_SECONDS
        await asyncio.sleep(max(0.0, self._stalled_until - now) + ANSWER_SECONDS)
        yield pb.GenerateResponse(text="abc")
        yield pb.GenerateResponse(finish=pb.Finish(reason=pb.FINISH_REASON_LENGTH, generated_chars=3))


@contextmanager
def stalling_server() -> Iterator[str]:
    """Yield the address of a server in a thread of its own."""
    loop, ready, addresses = asyncio.new_event_loop(), threading.Event(), list[str]()

    async def serve() -> None:
        server = grpc.aio.server()
        pb_grpc.add_TextGenerationServicer_to_server(StallingServer(), server)  # type: ignore[no-untyped-call]
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        ready.set()
        while ready.is_set():
            await asyncio.sleep(0.1)
        await server.stop(0)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield addresses[0]
    finally:
        ready.clear()
        thread.join()


def measure(**changes: Any) -> Mapping[str, Any]:
    with stalling_server() as address:
        settings = LoadtestSettings(host=(address,), prompt=("a",), warmup=0.0, check=0.0, users=USERS, **changes)
        return run_locust(settings, RUN_SECONDS)


def draw(runs: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """Draw the share of streams by their time to first character, as an HdrHistogram plot: the tail gets the room."""
    figure = Figure((7.5, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    for (name, run), colour in zip(runs.items(), ("#d55e00", "#0072b2"), strict=True):
        found = Distribution.from_json(run["measures"]["first"]["distribution"])
        steps = [(found.count / (found.count - below + 1), value) for value, below in found.steps()]
        p99 = run["measures"]["first"]["p99"]
        axes.step(
            *zip(*steps, strict=True),
            where="post",
            color=colour,
            label=f"{name}: {found.count:,} streams, p99 {p99:,.0f} ms",
        )
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 10, 100, 1000], ["0", "50", "90", "99", "99.9"])
    axes.set_xlabel("percentile of the streams")
    axes.set_ylabel("time to first character (ms)")
    axes.grid(color="#e3e3e3", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.set_title(f"One stall of {STALL_SECONDS:g} s in {RUN_SECONDS} s, measured twice", loc="left", fontsize=10)
    figure.savefig(out)


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(OmissionSettings, argv, command="python -m benchmarks.speed.omission")
    runs = {
        f"open, {RATE:g} texts a second": measure(scenario="open", rate=RATE, arrivals="constant"),
        f"closed, {USERS} users": measure(),
    }
    draw(runs, settings.out)
    for name, run in runs.items():
        row = run["measures"]["first"]
        print(
            f"{name}: {row['count']:,} streams, "
            + ", ".join(f"{key} {row[key]:,.1f} ms" for key in ("p50", "p90", "p99", "max"))
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
