"""Single steps that callers ask for: those that wait together share a run."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.errors import Overloaded
from server.observe.totals import Total
from server.runtime.step_runner import StepOutput

__all__ = ["Runner", "Steps"]


class Runner(Protocol):
    """Runs one step of rows; see server/runtime/step_runner.py. Is called by one thread only."""

    def run(self, token: NDArray[np.int64], state: Sequence[NDArray[np.float32]]) -> StepOutput: ...


@dataclass
class _Waiting:
    token: NDArray[np.int64]
    state: Sequence[NDArray[np.float32]]
    answer: asyncio.Future[StepOutput]
    began: float = 0.0


class Steps:
    """Runs the steps of one model in a thread of its own. To be used in the event loop.

    Args:
        max_rows: of one run.
        most: steps that may wait.

    Attributes:
        totals: of runs, by their number of rows.
    """

    def __init__(self, runner: Runner, loop: asyncio.AbstractEventLoop, max_rows: int, most: int) -> None:
        self._runner, self._loop, self._max_rows, self._most = runner, loop, max_rows, most
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "steps")
        self._is_running = False
        self.totals: dict[int, Total] = {}

    async def step(self, token: NDArray[np.int64], state: Sequence[NDArray[np.float32]]) -> tuple[StepOutput, float]:
        """Run one step of at most `max_rows` rows; return its output, and the seconds that it waited.

        Raises:
            Overloaded: too many wait.
            CannotRun: the graph failed.
        """
        if len(self._waiting) >= self._most:
            raise Overloaded.too_many_steps(self._most)
        submitted, waiting = time.monotonic(), _Waiting(token, state, self._loop.create_future())
        self._waiting.append(waiting)
        if not self._is_running:
            self._run_next()
        output = await waiting.answer
        return output, waiting.began - submitted

    def stop(self) -> None:
        """Let the thread end after the run that it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run_next(self) -> None:
        """Begin a run of what waits."""
        group = self._take()
        self._is_running = bool(group)
        if group:
            running = self._loop.run_in_executor(self._thread, self._run, group)
            running.add_done_callback(lambda done: self._end(group, done))

    def _take(self) -> list[_Waiting]:
        group, rows, now = list[_Waiting](), 0, time.monotonic()
        while self._waiting and rows + len(self._waiting[0].token) <= self._max_rows:
            waiting = self._waiting.popleft()
            if not waiting.answer.done():  # its caller is still there
                waiting.began = now
                group.append(waiting)
                rows += len(waiting.token)
        return group

    def _run(self, group: Sequence[_Waiting]) -> StepOutput:
        """Run the steps together; in the thread."""
        token = np.concatenate([waiting.token for waiting in group])
        names = range(len(group[0].state))
        state = [np.concatenate([waiting.state[name] for waiting in group]) for name in names]
        begin = time.perf_counter()
        output = self._runner.run(token, state)
        self.totals.setdefault(len(token), Total()).add(time.perf_counter() - begin)
        return output

    def _end(self, group: Sequence[_Waiting], done: asyncio.Future[StepOutput]) -> None:
        """Give each its part, or the error."""
        self._run_next()
        place = 0
        for waiting in group:
            rows = len(waiting.token)
            if not waiting.answer.done():
                if done.cancelled():
                    waiting.answer.cancel()
                elif error := done.exception():
                    waiting.answer.set_exception(error)
                else:
                    waiting.answer.set_result(done.result().part(place, place + rows))
            place += rows
