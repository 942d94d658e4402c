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
from server.prefixes import Prefixes
from server.rows import Rows, RowState
from server.runner import Runner
from server.scheduler import MAX_STEPS, Area, Move, Plan, Row, Scheduler, Status
from server.step_clock import StepClock
from server.stops import StopMatcher
from server.values import Cancel, Command, Delivery, Finish, Grant, Handled, Reason, Request, Stop

__all__ = ["Engine"]

# Of the time between two deliveries, what the event loop may need for one: the rest is for calls and other work.
LOOP_SHARE = 0.5

log = logging.getLogger("charstream.engine")


@dataclass(slots=True, eq=False)
class _Text:
    """A row, and what only this thread needs to know of its text.

    Attributes:
        request: of its prompt, the last `row.forced_left` characters are still to be forced.
        parked: where it stands while it has no slot.
        held: generated in short runs for newcomers, not delivered yet.
        admitted, first_char: times of time.monotonic; 0 until they come.
    """

    request: Request
    row: Row
    matcher: StopMatcher | None
    parked: RowState
    held: str = ""
    admitted: float = 0.0
    first_char: float = 0.0


class Engine(Thread):
    """Generates the texts of one model.

    Commands come from any thread; deliveries go to `deliver`, one list a tick, from the engine's thread.

    Args:
        max_rows: texts that run at a time.
        max_batch: texts of one run.
        chunk_delay: seconds that a generated character may wait.
        prefix_bytes: what the states after known prompts may take.
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
        prefix_bytes: int,
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
        readers = self._scheduler.readers
        self._rows = {
            Area.RUNNING: Rows(manifest.model, len(self._vocabulary), max_rows, max_batch),
            Area.READING: Rows(manifest.model, len(self._vocabulary), readers, readers),
        }
        self._prefixes = Prefixes(prefix_bytes)
        self._texts: dict[int, _Text] = {}
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._send, self._failed = deliver, failed
        self._outbox: list[Delivery] = []
        self._unhandled_ticks = 0  # delivered, and not through the event loop yet
        self._posted = self._period = 0.0  # time.monotonic() of the last delivery, and seconds since the one before
        self._behind = False
        self._stopped = False

    def submit(self, command: Command) -> None:
        """Hands over a command; it is carried out before the next run."""
        self._commands.put(command)

    def warm_up(self) -> None:
        """Runs batches of every class of size, so that no first use is slow and the step times are known."""
        most = min(self._scheduler.max_batch, self._scheduler.max_rows)
        for rows in sorted({min(2**power, most) for power in range(most.bit_length() + 1)}):
            for full in (False, True):
                for steps in (1, MAX_STEPS if rows <= 16 else 4):
                    self._run(Plan(Area.RUNNING, 0, [Row(-1, 0, steps, steps, 1.0)] * rows, steps, full))

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
        plan = self._scheduler.plan(behind=self._behind or self._unhandled_ticks > 0)
        if plan is None:
            return
        tokens = self._run(plan)
        if plan.area is Area.READING:
            self._read(plan)
        else:
            self._deliver(plan, tokens)

    def _take_commands(self) -> None:
        """Carries out all commands that came; waits for one if no row can run."""
        idle = self._scheduler.idle
        if idle:
            # No run comes that would hand it over.
            self._post()
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
            case Handled(ticks, seconds):
                self._unhandled_ticks -= ticks
                self._behind = seconds > LOOP_SHARE * self._period
            case Stop():
                self._stopped = True

    def _begin(self, request: Request) -> None:
        wanted = request.generation
        known = self._prefixes.longest(wanted.prompt)
        state = known or RowState(self._start_token, self._fresh_state, 0)
        row = Row(
            request.stream,
            forced_left=len(wanted.prompt) - state.position,
            chars_left=wanted.max_chars,
            credit=request.window,
            max_delay=wanted.max_delay,
            limited=wanted.sampling.limited,
        )
        matcher = StopMatcher(wanted.stop) if wanted.stop else None
        self._texts[request.stream] = _Text(request, row, matcher, state)
        self._scheduler.add(row)

    def _admit(self) -> None:
        now = time.monotonic()
        for row in self._scheduler.admit():
            text = self._texts[row.stream]
            text.admitted = text.admitted or now
            self._put(text, text.parked)

    def _put(self, text: _Text, state: RowState) -> None:
        """Writes the text's row into its slot."""
        wanted = text.request.generation
        area = Area.READING if text.row.status is Status.READING else Area.RUNNING
        self._rows[area].put(text.row.slot, state, wanted.seed, wanted.sampling)

    def _run(self, plan: Plan) -> NDArray[np.int64]:
        """Runs the plan's rows; returns the outcomes, [K, B]."""
        rows, first, count, steps = self._rows[plan.area], plan.first, len(plan.rows), plan.steps
        slots = slice(first, first + count)
        tokens = np.empty((steps, count), np.int64)
        uniform = uniforms(rows.seed[slots], rows.position[slots] + np.uint64(1), steps)
        loop = (self._forced(plan), uniform, rows.temperature[slots])
        before, after = rows.before(first, count), rows.after(first, count)
        self._post()
        begin = time.perf_counter()
        if plan.full:
            logprobs = np.empty((steps, count), np.float32)
            self._runner.full(before, loop, rows.limits(first, count), tokens, logprobs, after)
        else:
            self._runner.decode(before, loop, tokens, after)
        self._clock.measure(count, plan.full, steps, time.perf_counter() - begin)
        rows.advance(first, count, steps)
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

    def _read(self, plan: Plan) -> None:
        """The plan's rows are further in their prompts; those that are through go on to generate."""
        for row in plan.rows:
            row.forced_left -= plan.steps
            if row.forced_left:
                continue
            text = self._texts[row.stream]
            state = self._rows[Area.READING].take(row.slot)
            self._prefixes.put(text.request.generation.prompt, state)
            self._follow(Area.READING, self._scheduler.has_read(row))
            self._put(text, state)

    def _deliver(self, plan: Plan, tokens: NDArray[np.int64]) -> None:
        now = time.monotonic()
        chars = self._vocabulary.decode(tokens.T)  # row by row, K characters each
        for column, row in enumerate(plan.rows):
            forced = min(row.forced_left, plan.steps)
            row.forced_left -= forced
            generated = min(plan.steps - forced, row.chars_left)
            if generated:
                begin = column * plan.steps + forced
                delivery = self._generated(row, chars[begin : begin + generated], plan.hold, now)
                if delivery:
                    self._outbox.append(delivery)
        self._release(plan.rows)

    def _post(self) -> None:
        """Hands over what the last run made, when the next one is ready to begin.

        The event loop wakes up and takes the interpreter lock, which this thread needs no more while the graph runs;
        a moment earlier it would stand in this thread's way.
        """
        if self._outbox:
            self._send(self._outbox)
            self._outbox = []
            self._unhandled_ticks += 1
            now = time.monotonic()
            self._posted, self._period = now, now - self._posted

    def _generated(self, row: Row, chars: str, hold: bool, now: float) -> Delivery | None:
        """Takes in what the row generated; returns what goes to its reader, if anything does."""
        text, hold = self._texts[row.stream], hold and not row.fresh
        row.fresh = False
        row.chars_left -= len(chars)
        row.credit -= len(chars)
        # A row that pauses waits for its reader, who must have something to read.
        hold &= row.credit > 0
        stop = ""
        if text.matcher:
            chars, stop = text.matcher.push(chars)
            if not stop and not row.chars_left:
                chars += text.matcher.flush()
        chars, text.held = text.held + chars, ""
        if stop or not row.chars_left:
            row.chars_left = 0
            text.first_char = text.first_char or now
            return Delivery(row.stream, chars, _finish(text, stop, now))
        if hold or not chars:
            text.held = chars
            return None
        text.first_char = text.first_char or now
        return Delivery(row.stream, chars, None)

    def _release(self, rows: Sequence[Row]) -> None:
        """Takes rows that are done, or wait for their reader, out of the batch."""
        for row in rows:
            if row.can_run:
                continue
            text = self._texts[row.stream]
            if row.chars_left == 0:
                self._end(text)
            else:
                text.parked = self._rows[Area.RUNNING].take(row.slot)
                self._follow(Area.RUNNING, self._scheduler.pause(row))

    def _end(self, text: _Text) -> None:
        del self._texts[text.row.stream]
        area = Area.READING if text.row.status is Status.READING else Area.RUNNING
        self._follow(area, self._scheduler.end(text.row))

    def _follow(self, area: Area, move: Move | None) -> None:
        if move:
            self._rows[area].move(move.source, move.target)


def _finish(text: _Text, stop: str, now: float) -> Finish:
    submitted = text.request.submitted
    return Finish(
        reason=Reason.STOP if stop else Reason.LENGTH,
        stop=stop,
        queue_seconds=text.admitted - submitted,
        first_char_seconds=(text.first_char or now) - submitted,
        total_seconds=now - submitted,
    )
