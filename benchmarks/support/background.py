"""Load on a server from a process of its own, beside what this process measures."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["BackgroundLoad", "Tally", "Work", "background_load"]

PATIENCE_SECONDS = 60.0


@dataclass
class Tally:
    """The outcome of background load.

    Attributes:
        done: how often it did what it does, and how it was answered.
        slowest_refusal: the longest time until RESOURCE_EXHAUSTED, in seconds.
        in_place: set once it has its full size.
    """

    done: Counter[str] = field(default_factory=Counter)
    slowest_refusal: float = 0.0
    in_place: asyncio.Event = field(default_factory=asyncio.Event)


Work = Callable[[str, Tally], Coroutine[Any, Any, None]]  # goes on at an address until it is cancelled


@dataclass(frozen=True)
class BackgroundLoad:
    """A process that says "ready", works from "begin" to "end", says "in place" between, and sends its results."""

    pipe: "Connection[str, Any]"

    def begin(self) -> None:
        self.pipe.send("begin")

    def wait_for(self, message: str | None = None) -> Any:
        """Return the next message but those that must come before it, or without one the results."""
        while self.pipe.poll(PATIENCE_SECONDS):
            received = self.pipe.recv()
            if received == message or (message is None and not isinstance(received, str)):
                return received
        raise SystemExit(f"the background load sends no {message or 'results'}")

    def end(self) -> tuple[Counter[str], float]:
        """Stop the work; return the `done` and the `slowest_refusal` of its tally."""
        self.pipe.send("end")
        done, slowest_refusal = self.wait_for()
        return done, slowest_refusal


@contextmanager
def background_load(work: Work, address: str, core: int | None = None) -> Iterator[BackgroundLoad]:
    """Start a process, on one core if one is given; the work itself begins with `begin`."""
    context = get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=_run, args=(work, address, core, other), daemon=True)
    process.start()
    try:
        load = BackgroundLoad(pipe)
        load.wait_for("ready")
        yield load
    finally:
        process.kill()
        process.join()


def _run(work: Work, address: str, core: int | None, pipe: "Connection[Any, str]") -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    pipe.send("ready")
    pipe.recv()
    tally = asyncio.run(_work_until_end(work, address, pipe))
    pipe.send((tally.done, tally.slowest_refusal))


async def _work_until_end(work: Work, address: str, pipe: "Connection[Any, str]") -> Tally:
    tally = Tally()
    working, placed = asyncio.create_task(work(address, tally)), asyncio.create_task(tally.in_place.wait())
    await asyncio.wait([working, placed], return_when=asyncio.FIRST_COMPLETED)
    pipe.send("in place")
    await asyncio.to_thread(pipe.recv)
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    return tally
