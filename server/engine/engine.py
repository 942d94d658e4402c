"""The engine: one thread that runs the texts of one model. Its tick is: admit, plan, run, deliver."""

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from itertools import chain
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Manifest
from server.engine.backlog import DeliveryBacklog, Pace
from server.engine.messages import (
    Cancel,
    Command,
    Conclude,
    EngineObserver,
    Grant,
    Handled,
    Output,
    Reason,
    Request,
    RowState,
    Shutdown,
)
from server.engine.plan import Area, Move, Plan, RowSlice, RunSplit, Status
from server.engine.prefix_cache import PrefixCache
from server.engine.rows import Rows
from server.engine.scheduler import Scheduler
from server.engine.sequence import Sequence
from server.engine.state_store import RunOutput, Store
from server.engine.step_timer import StepTimer

__all__ = ["CommandSource", "Engine"]

log = logging.getLogger("charstream.engine")


class CommandSource(Protocol):
    """Gives the engine its commands."""

    def put(self, command: Command, /) -> None:
        """Add one."""

    def get(self, block: bool = True) -> Command:
        """Return the next command, or wait for one. Raises queue.Empty if there is none and it shall not wait."""


class Engine(Thread):
    """Runs the texts of one model.

    Commands come from any thread; outputs go to `deliver`, one list a tick, from the engine's own threads.

    Args:
        store: keeps the hidden states of rows, and runs them.
        manifest: the model's vocabulary, start and sizes.
        chunk_delay: seconds that one round of all groups should take.
        prefix_bytes: how much memory the states after known prompts may take.
        max_wait: seconds after which a text that still waits for its first slot ends.
        deliver: takes the outputs of a tick; must not block.
        failed: takes the exception if the engine breaks, which ends it.
        observer: is told what the engine does.
        commands: where commands come from, in a process of the engine's own; None for a queue that `submit` fills.
            There outputs are posted at once. In the event loop's process they are when its thread can have the
            interpreter: while the next run lasts.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        *,
        chunk_delay: float,
        prefix_bytes: int,
        max_wait: float,
        deliver: Callable[[list[Output]], None],
        failed: Callable[[BaseException], None],
        observer: EngineObserver | None = None,
        commands: CommandSource | None = None,
    ) -> None:
        super().__init__(name=f"engine {manifest.name}", daemon=True)
        self._store, limits = store, store.limits
        self._start = RowState.at_start(manifest)
        self._timer = StepTimer(store.states[Area.DECODE].width, shortest=limits.overlaps)
        self._scheduler: Scheduler[Sequence] = Scheduler(limits, chunk_delay, self._timer.step_seconds)
        max_rows = {Area.DECODE: limits.max_rows, Area.PREFILL: limits.prefill_rows}
        vocab = len(manifest.vocabulary)
        self._rows = {area: Rows(states, vocab, max_rows[area]) for area, states in store.states.items()}
        self._prefixes = PrefixCache(prefix_bytes)
        self._max_wait = max_wait
        self._sequences: dict[int, Sequence] = {}
        self._commands: CommandSource = commands or SimpleQueue[Command]()
        self._backlog: DeliveryBacklog[Sequence] = DeliveryBacklog(deliver, at_once=commands is not None)
        self._failed, self._observer = failed, observer or EngineObserver()
        self._is_stopped = False
        self._warmed: Future[None] | None = None

    def submit(self, command: Command) -> None:
        """Hand over a command; it is carried out before the next run."""
        self._commands.put(command)

    def queue_head(self, most: int) -> list[int]:
        """Return the streams that wait longest for their first slot; in the engine's thread."""
        return [sequence.stream for sequence in self._scheduler.queue.queue_head(most)]

    def start_warm(self) -> None:
        """Start the thread with runs of every kind, so that no first use is slow and the step times are known.

        They are in that thread because what CUDA captures belongs to the thread that captured it. Returns after them.
        Raises CannotRun.
        """
        self._warmed = Future()
        self.start()
        self._warmed.result()

    def run(self) -> None:
        """Run texts until `Shutdown` comes; this is what the thread does, if it is started as one."""
        self._observer.on_start()
        try:
            if self._warmed and not self._warm_up(self._warmed):
                return
            while not self._is_stopped:
                self._take_commands()
                self._tick()
        except BaseException as error:
            log.exception("the engine broke")
            self._failed(error)
        finally:
            self._store.close()
            self._observer.on_end()

    def warm_up(self) -> None:
        """Do runs of every kind; in the thread that will call `run`. Raises CannotRun."""
        self._store.states[Area.DECODE].warm_up(self._timer.measure)

    def _warm_up(self, warmed: Future[None]) -> bool:
        try:
            self.warm_up()
        except Exception as error:
            warmed.set_exception(error)
            return False
        warmed.set_result(None)
        return True

    def _tick(self) -> None:
        self._admit()
        plan = self._scheduler.plan(behind=self._backlog.update_pace() is not Pace.IN_TIME)
        if plan:
            split, output = self._run_graph(plan)
            self._deliver_run(plan, split, output)
            if self._backlog.at_once:
                self._backlog.post()
        rows, waiting = self._store.limits.max_rows - self._scheduler.free, self._scheduler.queue.waiting
        self._observer.on_tick(rows, waiting, len(self._sequences) - rows - waiting)

    def _admit(self) -> None:
        """Give slots to those whose turn it is, and end those that waited too long for one."""
        now = time.monotonic()
        for sequence in self._scheduler.rows_to_preempt():
            self._deliver_deferred()
            if sequence.status is not Status.ENDED:
                self._backlog.add(sequence.take_pending(now))
                self._save(sequence, self._scheduler.preempt)
        for sequence in self._scheduler.admit():
            if not sequence.times.admitted:
                sequence.times.admitted = now
                self._observer.on_wait(now - sequence.times.queued)
            self._rows[sequence.area].put(sequence.slot, sequence.saved_state, sequence.request)
        while (oldest := self._scheduler.queue.oldest) and oldest.times.queued < now - self._max_wait:
            self._observer.on_wait(now - oldest.times.queued)
            self._conclude(oldest, Reason.NOT_ADMITTED)

    def _run_graph(self, plan: Plan[Sequence]) -> tuple[RunSplit[Sequence], RunOutput]:
        rows, split = self._rows[plan.area], RunSplit[Sequence](plan.postpone)
        run_input = rows.run_input(plan.first, _forced_tokens(plan))
        output = rows.run(run_input, full=plan.full, meanwhile=lambda: self._meanwhile(plan, split))
        self._timer.measure(len(plan.rows), plan.full, plan.steps, output.seconds)
        self._observer.on_run(len(plan.rows), plan.steps, output.seconds, split.generated, split.forced)
        return split, output

    def _meanwhile(self, plan: Plan[Sequence], split: RunSplit[Sequence]) -> None:
        """Do the work that needs no result of this run; on a device, while it runs."""
        overlaps = self._store.limits.overlaps
        self._deliver_deferred()
        split.fill(plan, overlaps=overlaps)
        self._backlog.post()
        if overlaps:
            self._rows[plan.area].draw_ahead(plan.first, len(plan.rows), plan.steps)

    def _deliver_run(self, plan: Plan[Sequence], split: RunSplit[Sequence], output: RunOutput) -> None:
        """Deliver what has to be delivered now, and free slots; the rest is delivered beside the next run."""
        self._deliver(split.at_once, output, postpone=split.postpone)
        stopped = (part.row for part in split.at_once if part.row.is_done)
        for sequence in chain(split.leaving, stopped):
            if sequence.status is not Status.ENDED:
                self._release(plan.area, sequence)
        self._backlog.deferred = (output, split) if split.later else None

    def _take_commands(self) -> None:
        """Carry out all commands that came; wait for one if no row can run."""
        idle = self._scheduler.idle
        if idle:
            # No run will come, so nothing else would deliver what waits.
            self._deliver_deferred()
            self._backlog.post()
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
            case Grant(stream, chars) if stream in self._sequences:
                self._scheduler.grant(self._sequences[stream], chars)
            case Cancel(stream) if stream in self._sequences:
                self._end(self._sequences[stream])
            case Conclude(stream, reason) if stream in self._sequences:
                self._conclude(self._sequences[stream], reason)
            case Handled(ticks, seconds):
                self._backlog.note_handled(ticks, seconds)
            case Shutdown():
                self._is_stopped = True

    def _begin(self, request: Request) -> None:
        start = request.origin or self._start
        known = None if request.origin else self._prefixes.longest(request.forced[: request.silent])
        sequence = self._sequences[request.stream] = Sequence(request, start, known or start)
        self._scheduler.add(sequence, is_replay=request.begun.is_replay)

    def _deliver_deferred(self) -> None:
        """Deliver what was left of the last run, on a device; a stop string may end texts now."""
        if not self._backlog.deferred:
            return
        (output, split), self._backlog.deferred = self._backlog.deferred, None
        self._deliver(split.later, output, postpone=split.postpone)
        for part in split.later:
            if part.row.is_done and part.row.stream in self._sequences:
                self._end(part.row)

    def _deliver(self, parts: Iterable[RowSlice[Sequence]], run: RunOutput, *, postpone: bool) -> None:
        now = time.monotonic()
        # What the event loop cannot send yet costs it less as a part of the next message.
        postpone = postpone or self._backlog.pace is Pace.LATE
        for part in parts:
            output = part.row.take(part, run, postpone=postpone, now=now)
            if part.row.request.keeps_places:
                output = self._add_place(part.row, output, run.tokens[:, part.column])
            if output and part.row.places.is_state_due and not output.finish:
                output = self._add_state(part.row, output)
            self._backlog.add(output)

    def _add_place(self, sequence: Sequence, output: Output | None, outcomes: NDArray[np.int64]) -> Output | None:
        """Keep track of the reader's place; add a snapshot to the output if one is due."""
        rows, slot = self._rows[sequence.area], sequence.slot
        sequence.remember(rows.position(slot), lambda: rows.take_before(slot, len(outcomes)), outcomes)
        if output and (sequence.request.snapshot if output.finish else sequence.places.is_checkpoint_due):
            return replace(output, snapshot=sequence.snapshot(lambda: rows.take(slot)))
        return output

    def _add_state(self, sequence: Sequence, output: Output) -> Output:
        """Add the row state. Where the next run may have begun, the one after it will wait for its outputs first."""
        is_there = sequence.needs_states or not self._store.limits.overlaps
        sequence.needs_states = not is_there or sequence.request.needs_states
        if not is_there:
            return output
        sequence.places.note_state()
        return replace(output, state=self._rows[sequence.area].take(sequence.slot))

    def _release(self, area: Area, sequence: Sequence) -> None:
        """Take a row that is done, or waits for its reader, out of the batch; after prefill it goes on to decode."""
        if sequence.is_done:
            self._end(sequence)
        elif not sequence.can_run:
            self._save(sequence, self._scheduler.pause)
        else:
            state = self._rows[area].take(sequence.slot)
            if not (sequence.request.origin or sequence.request.begun.received):
                self._prefixes.put(sequence.request.forced, state)
            self._apply_move(area, self._scheduler.finish_prefill(sequence))
            self._rows[sequence.area].put(sequence.slot, state, sequence.request)

    def _save(self, sequence: Sequence, leave: Callable[[Sequence], Move | None]) -> None:
        """Take the sequence out of its slot, and keep its row state. `leave`: `pause` or `preempt` of the scheduler."""
        area = sequence.area
        sequence.saved_state = self._rows[area].take(sequence.slot)
        self._apply_move(area, leave(sequence))

    def _conclude(self, sequence: Sequence, reason: Reason) -> None:
        """End a text where it is, unless what was left of the last run ends it."""
        self._deliver_deferred()
        if sequence.stream not in self._sequences:
            return
        output = sequence.conclude(reason, time.monotonic())
        if sequence.request.snapshot:
            rows, slot = self._rows[sequence.area], sequence.slot
            snapshot = sequence.snapshot(lambda: rows.take(slot) if slot >= 0 else sequence.saved_state)
            output = replace(output, snapshot=snapshot)
        self._backlog.add(output)
        self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        del self._sequences[sequence.stream]
        self._apply_move(sequence.area, self._scheduler.end(sequence))

    def _apply_move(self, area: Area, move: Move | None) -> None:
        """Apply the scheduler's move to the area's arrays."""
        if move:
            self._rows[area].move(move.source, move.target)


def _forced_tokens(plan: Plan[Sequence]) -> NDArray[np.int64]:
    """Return the forced tokens of the plan's run, [K, B]; -1 where a token is sampled."""
    forced = np.full((plan.steps, len(plan.rows)), -1, np.int64)
    for column, sequence in enumerate(plan.rows):
        if sequence.forced_left:
            tokens = sequence.next_forced(plan.steps)
            forced[: len(tokens), column] = tokens
    return forced
