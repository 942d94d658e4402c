"""Load on a server from a process of its own, beside what this process measures."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

__all__ = ["BackgroundLoad", "Tally", "Work"]

START_SECONDS, END_SECONDS = 60.0, 30.0


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


class BackgroundLoad:
    """Work in a process of its own, on one core if one is given."""

    def __init__(self, work: Work, address: str, core: int | None = None) -> None:
        """Start the process; the work itself begins with `begin`."""
        context = get_context("spawn")
        self._ready, self._begin, self._in_place, self._end = (context.Event() for _ in range(4))
        self._results = context.Queue()
        events = (self._ready, self._begin, self._in_place, self._end)
        arguments = (work, address, core, events, self._results)
        self._process = context.Process(target=_run, args=arguments, daemon=True)

    @classmethod
    @contextmanager
    def running(cls, work: Work, address: str, core: int | None = None) -> "Iterator[BackgroundLoad]":
        load = cls(work, address, core)
        load._process.start()
        try:
            if not load._ready.wait(START_SECONDS):
                raise SystemExit("the background load does not start")
            yield load
        finally:
            load._process.kill()
            load._process.join()

    def begin(self) -> None:
        self._begin.set()

    def wait_until_in_place(self) -> None:
        if not self._in_place.wait(START_SECONDS):
            raise SystemExit("the background load does not reach its full size")

    def end(self) -> tuple[Counter[str], float]:
        """Stop the work; return the `done` and the `slowest_refusal` of its tally."""
        self._end.set()
        found: tuple[Counter[str], float] = self._results.get(timeout=END_SECONDS)
        return found


def _run(work: Work, address: str, core: int | None, events: Any, results: Any) -> None:
    ready, begin, in_place, end = events
    if core is not None:
        os.sched_setaffinity(0, {core})

    async def run() -> Tally:
        tally = Tally()
        working, placed = asyncio.create_task(work(address, tally)), asyncio.create_task(tally.in_place.wait())
        await asyncio.wait([working, placed], return_when=asyncio.FIRST_COMPLETED)
        in_place.set()
        await asyncio.to_thread(end.wait)
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        return tally

    ready.set()
    begin.wait()
    tally = asyncio.run(run())
    results.put((tally.done, tally.slowest_refusal))
