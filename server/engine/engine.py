"""The engine: one thread that runs the rows of one model. Its tick is: schedule, run, deliver."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import chain
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Manifest
from server.engine.messages import Cancel, Command, Conclude, Delivery, Grant, Handled, Reason, Request, RowState, Stop
from server.engine.plan import Area, Move, Plan, Row, Status
from server.engine.prefix_cache import Prefixes
from server.engine.rows import Rows
from server.engine.scheduler import Scheduler
from server.engine.sequence import Text
from server.engine.state_store import Store
from server.engine.step_output import Made, Part, Shares
from server.engine.step_timer import StepClock
from server.engine.watch import Watch

__all__ = ["Engine"]

# Of the time between two deliveries, what the event loop may need for one: the rest is for calls and other work.
LOOP_SHARE = 0.5

log = logging.getLogger("charstream.engine")


class Engine(Thread):
    """Generates the texts of one model.

    Commands come from any thread; deliveries go to `deliver`, one list a tick, from a thread of the engine's.

    Args:
        store: keeps the states of rows, and runs them.
        chunk_delay: seconds that a generated character may wait.
        prefix_bytes: what the states after known prompts may take.
        max_wait: seconds after which a text that still waits for its first slot ends.
        deliver: takes what a tick made; must not block.
        failed: takes the exception if the engine breaks, which ends it.
        watch: is told what the engine does.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        *,
        chunk_delay: float,
        prefix_bytes: int,
        max_wait: float,
        deliver: Callable[[list[Delivery]], None],
        failed: Callable[[BaseException], None],
        watch: Watch | None = None,
    ) -> None:
        super().__init__(name=f"engine {manifest.name}", daemon=True)
        self._vocabulary = manifest.vocabulary
        state = tuple(np.zeros(manifest.model.hidden, np.float32) for _ in manifest.model.state_names)
        self._start = RowState(int(self._vocabulary.symbols_to_tokens(manifest.start_text)[0]), state, 0)
        self._running = store.states[Area.RUNNING]
        self._clock, self._runs = StepClock(self._running.width, shortest=store.runs.beside), store.runs
        self._scheduler = Scheduler(store.runs, chunk_delay, self._clock.step_seconds)
        rooms = {Area.RUNNING: store.runs.max_rows, Area.READING: store.runs.readers}
        vocab = len(self._vocabulary)
        self._rows = {area: Rows(states, vocab, rooms[area]) for area, states in store.states.items()}
        self._prefixes = Prefixes(prefix_bytes)
        self._max_wait = max_wait
        self._texts: dict[int, Text] = {}
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._send, self._failed, self._watch = deliver, failed, watch or Watch()
        self._outbox: list[Delivery] = []
        self._late: tuple[Made, Sequence[Part]] | None = None  # of the last run, not delivered yet
        self._unhandled_ticks = 0  # delivered, and not through the event loop yet
        self._posted = self._period = 0.0  # time.monotonic() of the last delivery, and seconds since the one before
        self._behind = False
        self._loop_is_late = False  # at this tick's plan it had not handled what was posted a run ago
        self._stopped = False
        self._warmed: Future[None] | None = None

    def submit(self, command: Command) -> None:
        """Hands over a command; it is carried out before the next run."""
        self._commands.put(command)

    def start_warm(self) -> None:
        """Starts the thread with runs of every kind, so that no first use is slow and the step times are known.

        They are in that thread because what CUDA captures belongs to the thread that captured it. Returns after them;
        raises CannotRun.
        """
        self._warmed = Future()
        self.start()
        self._warmed.result()

    def run(self) -> None:
        self._watch.began()
        try:
            if self._warmed and not self._warm_up(self._warmed):
                return
            while not self._stopped:
                self._take_commands()
                self._tick()
        except BaseException as error:
            log.exception("the engine broke")
            self._failed(error)
        finally:
            self._watch.ended()

    def _warm_up(self, warmed: Future[None]) -> bool:
        try:
            self._running.warm_up(self._clock.measure)
        except Exception as error:
            warmed.set_exception(error)
            return False
        warmed.set_result(None)
        return True

    def _tick(self) -> None:
        self._admit()
        self._loop_is_late = self._unhandled_ticks > 0
        plan = self._scheduler.plan(behind=self._behind or self._loop_is_late)
        if plan:
            self._run(plan)
        self._tell_what_it_holds()

    def _tell_what_it_holds(self) -> None:
        rows = self._runs.max_rows - self._scheduler.free
        waiting = self._scheduler.queue.waiting
        self._watch.holds(rows, waiting, len(self._texts) - rows - waiting)

    def _take_commands(self) -> None:
        """Carries out all commands that came; waits for one if no row can run."""
        idle = self._scheduler.idle
        if idle:
            # No run comes that would hand it over.
            self._deliver_late()
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
            case Conclude(stream, reason) if stream in self._texts:
                self._conclude(self._texts[stream], reason)
            case Handled(ticks, seconds):
                self._unhandled_ticks -= ticks
                self._behind = seconds > LOOP_SHARE * self._period
            case Stop():
                self._stopped = True

    def _begin(self, request: Request) -> None:
        wanted = request.generation
        start = wanted.origin or self._start
        known = None if wanted.origin else self._prefixes.longest(wanted.forced[: wanted.silent])
        text = self._texts[request.stream] = Text(request, start, known or start)
        self._scheduler.add(text.row)

    def _admit(self) -> None:
        now = time.monotonic()
        for row in self._scheduler.surplus():
            self._deliver_late()
            if row.status is not Status.ENDED:
                self._give_way(self._texts[row.stream], now)
        for row in self._scheduler.admit():
            text = self._texts[row.stream]
            if not text.admitted:
                text.admitted = now
                self._watch.waited(now - text.queued)
            self._put(text, text.parked)
        while (oldest := self._scheduler.queue.oldest) and self._texts[oldest.stream].queued < now - self._max_wait:
            self._watch.waited(now - self._texts[oldest.stream].queued)
            self._conclude(self._texts[oldest.stream], Reason.NOT_ADMITTED)

    def _give_way(self, text: Text, now: float) -> None:
        """Another identity's row gets this one's slot."""
        held_back = text.take_held(now)
        if held_back:
            self._outbox.append(held_back)
        area = text.row.area
        text.parked = self._rows[area].take(text.row.slot)
        self._follow(area, self._scheduler.give_way(text.row))

    def _put(self, text: Text, state: RowState) -> None:
        """Writes the text's row into its slot."""
        self._rows[text.row.area].put(text.row.slot, state, text.wanted)

    def _run(self, plan: Plan) -> None:
        rows, shares = self._rows[plan.area], Shares()
        inputs = rows.inputs(plan.first, self._forced(plan))
        outcomes = rows.run(inputs, full=plan.full, meanwhile=lambda: self._meanwhile(plan, shares))
        self._clock.measure(len(plan.rows), plan.full, plan.steps, outcomes.seconds)
        self._watch.ran(len(plan.rows), plan.steps, outcomes.seconds, shares.generated, shares.forced)
        self._settle(plan, shares, Made(outcomes, self._vocabulary, hold=plan.hold))

    def _meanwhile(self, plan: Plan, shares: Shares) -> None:
        """All that needs nothing of the run: on a device it passes beside it."""
        self._deliver_late()
        shares.fill(plan, self._texts, beside=self._runs.beside)
        self._post()
        if self._runs.beside:
            self._rows[plan.area].draw_ahead(plan.first, len(plan.rows), plan.steps)

    def _forced(self, plan: Plan) -> NDArray[np.int64]:
        forced = np.full((plan.steps, len(plan.rows)), -1, np.int64)
        for column, row in enumerate(plan.rows):
            if row.forced_left:
                given = self._texts[row.stream].given(plan.steps)
                forced[: len(given), column] = given
        return forced

    def _settle(self, plan: Plan, shares: Shares, made: Made) -> None:
        """Takes in what the run made; what can be later, on a device, is delivered beside the next one."""
        self._deliver(made, shares.at_once)
        stopped = (part.text.row for part in shares.at_once if part.text.row.done)
        for row in chain(shares.leaving, stopped):
            if row.status is not Status.ENDED:
                self._release(plan.area, row)
        self._late = (made, shares.later) if shares.later else None

    def _deliver_late(self) -> None:
        if not self._late:
            return
        (made, parts), self._late = self._late, None
        self._deliver(made, parts)
        for part in parts:
            if part.text.row.done and part.text.row.stream in self._texts:
                self._end(part.text)

    def _deliver(self, made: Made, parts: Sequence[Part]) -> None:
        now = time.monotonic()
        for part in parts:
            # What the event loop cannot send yet costs it less as a part of the next message.
            delivery = made.delivery(part, now, hold=self._loop_is_late)
            if part.text.wanted.keeps_places:
                delivery = self._with_place(part.text, delivery, made.outcomes_of(part))
            if delivery:
                self._outbox.append(delivery)

    def _with_place(self, text: Text, delivery: Delivery | None, outcomes: NDArray[np.int64]) -> Delivery | None:
        """Follows where the text could go on, and adds it to a delivery that shall have it."""
        rows, row = self._rows[text.row.area], text.row
        end = rows.position(row.slot)
        text.remember(end, lambda: rows.take_before(row.slot, len(outcomes)), outcomes)
        if delivery and (text.wanted.snapshot if delivery.finish else text.checkpoint_due):
            return replace(delivery, snapshot=text.snapshot(lambda: rows.take(row.slot)))
        return delivery

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

    def _release(self, area: Area, row: Row) -> None:
        """Takes a row that is done, or waits for its reader, out of the batch; one that has read goes on."""
        text = self._texts[row.stream]
        if row.done:
            self._end(text)
        elif not row.can_run:
            text.parked = self._rows[area].take(row.slot)
            self._follow(area, self._scheduler.pause(row))
        else:
            state = self._rows[area].take(row.slot)
            if not (text.wanted.origin or text.wanted.received):
                self._prefixes.put(text.wanted.forced, state)
            self._follow(area, self._scheduler.has_read(row))
            self._put(text, state)

    def _conclude(self, text: Text, reason: Reason) -> None:
        """Ends a text where it is, if it has not ended by what was made of it."""
        self._deliver_late()
        if text.row.stream not in self._texts:
            return
        delivery = text.conclude(reason, time.monotonic())
        if text.wanted.snapshot:
            delivery = replace(delivery, snapshot=text.snapshot(lambda: self._state(text)))
        self._outbox.append(delivery)
        self._end(text)

    def _state(self, text: Text) -> RowState:
        return self._rows[text.row.area].take(text.row.slot) if text.row.slot >= 0 else text.parked

    def _end(self, text: Text) -> None:
        del self._texts[text.row.stream]
        self._follow(text.row.area, self._scheduler.end(text.row))

    def _follow(self, area: Area, move: Move | None) -> None:
        if move:
            self._rows[area].move(move.source, move.target)
