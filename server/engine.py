"""The engine: one thread that runs the rows of one model. Its tick is: schedule, run, deliver."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Manifest
from bundle.philox import uniforms
from server.rows import Rows, RowState
from server.runner import Runner
from server.scheduler import Move, Plan, Row, Scheduler
from server.step_clock import StepClock
from server.stops import StopMatcher
from server.values import Cancel, Command, Delivery, Finish, Grant, Reason, Request, Stop

__all__ = ["Engine"]

log = logging.getLogger("charstream.engine")


@dataclass(slots=True, eq=False)
class _Text:
    """A row, and what only this thread needs to know of its text.

    Attributes:
        request: of its prompt, the last `row.forced_left` characters are still to be forced.
        parked: the row while it has no slot.
        admitted, first_char: times of time.monotonic; 0 until they come.
    """

    request: Request
    row: Row
    matcher: StopMatcher | None
    parked: RowState
    admitted: float = 0.0
    first_char: float = 0.0


class Engine(Thread):
    """Generates the texts of one model.

    Commands come from any thread; deliveries go to `deliver`, one list a tick, from the engine's thread.

    Args:
        deliver: takes what a tick made; must not block.
        failed: takes the exception if the engine breaks, which ends it.
    """

    def __init__(
        self,
        runner: Runner,
        manifest: Manifest,
        *,
        max_rows: int,
        max_batch: int,
        chunk_delay: float,
        deliver: Callable[[list[Delivery]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name=f"engine {manifest.name}", daemon=True)
        self._runner = runner
        self._vocabulary = manifest.vocabulary
        self._start_token = int(self._vocabulary.encode(manifest.start_text)[0])
        self._fresh_state = tuple(np.zeros(manifest.model.hidden, np.float32) for _ in manifest.model.state_names)
        self._clock = StepClock()
        self._scheduler = Scheduler(max_rows, max_batch, chunk_delay, self._clock.step_seconds)
        self._rows = Rows(manifest.model, max_rows, max_batch)
        self._texts: dict[int, _Text] = {}
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._send, self._failed = deliver, failed
        self._stopped = False

    def submit(self, command: Command) -> None:
        """Hands over a command; it is carried out before the next run."""
        self._commands.put(command)

    def warm_up(self) -> None:
        """Runs batches of every class of size, so that the first real one is not slow and the step times are known."""
        sizes = {min(2**power, self._scheduler.max_batch, self._scheduler.max_rows) for power in range(0, 11, 2)}
        for rows in sorted(sizes):
            plan = Plan(0, [Row(-1, 0, 8, 8, 1.0)] * rows, 4, [0] * rows)
            self._run(plan)
            self._run(plan)

    def run(self) -> None:
        try:
            while not self._stopped:
                self._take_commands()
                self._tick()
        except BaseException as error:
            log.exception("the engine broke")
            self._failed(error)

    def _tick(self) -> None:
        self._admit()
        plan = self._scheduler.plan()
        if plan is not None:
            self._deliver(plan, self._run(plan))

    def _take_commands(self) -> None:
        """Carries out all commands that came; waits for one if no row can run."""
        idle = self._scheduler.idle
        while True:
            try:
                command = self._commands.get(block=idle)
            except Empty:
                return
            self._carry_out(command)
            idle = False

    def _carry_out(self, command: Command) -> None:
        match command:
            case Request():
                self._begin(command)
            case Grant(stream, chars) if stream in self._texts:
                self._scheduler.grant(self._texts[stream].row, chars)
            case Cancel(stream) if stream in self._texts:
                self._end(self._texts[stream])
            case Stop():
                self._stopped = True

    def _begin(self, request: Request) -> None:
        wanted = request.generation
        row = Row(request.stream, len(wanted.prompt), wanted.max_chars, request.window, wanted.max_delay)
        state = RowState(self._start_token, self._fresh_state, 0, wanted.seed, wanted.temperature)
        matcher = StopMatcher(wanted.stop) if wanted.stop else None
        self._texts[request.stream] = _Text(request, row, matcher, state)
        self._scheduler.add(row)

    def _admit(self) -> None:
        now = time.monotonic()
        for row in self._scheduler.admit():
            text = self._texts[row.stream]
            text.admitted = text.admitted or now
            self._rows.put(row.slot, text.parked)

    def _run(self, plan: Plan) -> NDArray[np.int64]:
        """Runs the plan's rows; returns the outcomes, [K, B]."""
        first, count, steps = plan.first, len(plan.rows), plan.steps
        slots = slice(first, first + count)
        row_steps = np.array(plan.row_steps, np.int64)
        tokens = np.empty((steps, count), np.int64)
        uniform = uniforms(self._rows.seed[slots], self._rows.position[slots] + np.uint64(1), steps)
        begin = time.perf_counter()
        self._runner.run(
            self._rows.before(first, count),
            self._forced(plan),
            uniform,
            row_steps,
            self._rows.temperature[slots],
            tokens,
            self._rows.after(first, count),
        )
        self._clock.measure(count, steps, time.perf_counter() - begin)
        self._rows.advance(first, row_steps)
        return tokens

    def _forced(self, plan: Plan) -> NDArray[np.int64]:
        forced = np.full((plan.steps, len(plan.rows)), -1, np.int64)
        for column, row in enumerate(plan.rows):
            if row.forced_left:
                prompt = self._texts[row.stream].request.generation.prompt
                begin = len(prompt) - row.forced_left
                part = prompt[begin : begin + plan.steps]
                forced[: len(part), column] = part
        return forced

    def _deliver(self, plan: Plan, tokens: NDArray[np.int64]) -> None:
        now = time.monotonic()
        chars = self._vocabulary.decode(tokens.T)  # row by row, K characters each
        deliveries: list[Delivery] = []
        for column, (row, steps) in enumerate(zip(plan.rows, plan.row_steps, strict=True)):
            begin = column * plan.steps
            forced = min(row.forced_left, steps)
            row.forced_left -= forced
            if steps > forced:
                delivery = self._generated(self._texts[row.stream], chars[begin + forced : begin + steps], now)
                if delivery.text or delivery.finish:
                    deliveries.append(delivery)
        self._release(plan.rows)
        if deliveries:
            self._send(deliveries)

    def _generated(self, text: _Text, chars: str, now: float) -> Delivery:
        row = text.row
        row.fresh = False
        row.chars_left -= len(chars)
        row.credit -= len(chars)
        stop = ""
        if text.matcher:
            chars, stop = text.matcher.push(chars)
            if not stop and not row.chars_left:
                chars += text.matcher.flush()
        if chars:
            text.first_char = text.first_char or now
        if not stop and row.chars_left:
            return Delivery(row.stream, chars, None)
        row.chars_left = 0
        return Delivery(row.stream, chars, _finish(text, stop, now))

    def _release(self, rows: Sequence[Row]) -> None:
        """Takes rows that are done, or wait for their reader, out of the batch."""
        for row in rows:
            if row.steps:
                continue
            text = self._texts[row.stream]
            if row.chars_left == 0:
                self._end(text)
            else:
                text.parked = self._rows.take(row.slot)
                self._follow(self._scheduler.pause(row))

    def _end(self, text: _Text) -> None:
        del self._texts[text.row.stream]
        self._follow(self._scheduler.end(text.row))

    def _follow(self, move: Move | None) -> None:
        if move:
            self._rows.move(move.source, move.target)


def _finish(text: _Text, stop: str, now: float) -> Finish:
    submitted = text.request.submitted
    return Finish(
        reason=Reason.STOP if stop else Reason.LENGTH,
        stop=stop,
        queue_seconds=text.admitted - submitted,
        first_char_seconds=(text.first_char or now) - submitted,
        total_seconds=now - submitted,
    )
