"""The engine processes of one model: each text is in one of them, and goes on in another if that one dies."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from operator import attrgetter

from bundle.vocabulary import Vocabulary
from server.engine.messages import (
    Cancel,
    Command,
    Conclude,
    EngineObserver,
    Grant,
    Handled,
    Output,
    PoolObserver,
    Reason,
    Request,
    RowState,
)
from server.engine.prefix_cache import PrefixIndex
from server.engine.scheduler import LONG_PROMPT
from server.errors import EnginesDied
from server.processes.frames import EngineReady, TickFrame
from server.processes.placement import STATE_CHARS, Placement
from server.processes.process import EngineProcess, StartedProcess, describe_exit, stop_all
from server.runtime.host_runner import CannotRun

__all__ = ["EnginePool"]

log = logging.getLogger("charstream.engine")

# Prompts of which is known which engine has the state after them.
KNOWN_PROMPTS = 4096
# That engine is preferred while it has at most this many texts, and this share, more than the one with the fewest.
EXTRA_TEXTS, EXTRA_SHARE = 4, 0.25
# Texts with which this many engines in a row died before they delivered anything are suspected to be the reason: they
# run one at a time until a character comes, and one with which `GUILTY` died is given up. So are those that had nothing
# from `BARREN` engines in a row, whatever others had: of engines that are busy there is always something to deliver.
SUSPECT, GUILTY, BARREN = 2, 4, 6
# After this many processes in a row, in one place, that ended within seconds and gave nothing, or could not be started,
# the server ends, unless another engine works.
MOST_FAILURES, SHORT_SECONDS = 5, 10.0
# Seconds before the first, second, ... attempt to start a process where others have failed.
WAITS = (0.0, 0.2, 0.5, 1.0, 2.0, 30.0)
# A text that has to end is ended without its engine if that has not done it after this time: it may hang.
CONCLUDE_SECONDS = 0.5
# Engines that have texts are asked for a sign of life every few seconds, and killed after a while without any.
# The time of a machine that sleeps, or of a server that is stopped, does not count.
PING_SECONDS, MOST_PINGS = 5.0, 6


class Place:
    """The place of one engine process and of its successors.

    Attributes:
        engine: the process; None while there is none.
        placements: the texts that it has, by their numbers.
        failures: processes in a row that ended soon, and gave nothing.
        began, delivered: time.monotonic() when the process was connected, and of its last outputs.
    """

    def __init__(self) -> None:
        self.engine: EngineProcess | None = None
        self.observer = EngineObserver()
        self.placements: dict[int, Placement] = {}
        self.failures = 0
        self.began = self.delivered = 0.0


class EnginePool:
    """All engine processes of one model. To be used in the event loop; `stop` from any thread.

    Args:
        start: starts the process with that index, and returns when it is ready; is called in threads. It raises when
            the function that it gets says that the process is not wanted any more.
        rows: how many texts the engine with each index runs at a time.
        vocabulary, start_state: of the model: its symbols, and the row state before a text.
        deliver: takes outputs, by the streams' own numbers; when they were posted; and where the engine takes commands.
        give_up: takes a stream and the error with which it ends.
        failed: takes the error if no engine process can be kept alive.
    """

    def __init__(
        self,
        start: Callable[[int, Callable[[], bool]], StartedProcess],
        rows: Sequence[int],
        vocabulary: Vocabulary,
        start_state: RowState,
        *,
        deliver: Callable[[list[Output], float, Callable[[Command], None]], None],
        give_up: Callable[[int, Exception], None],
        failed: Callable[[BaseException], None],
        observer: PoolObserver,
    ) -> None:
        self._start, self._rows = start, rows
        self._vocabulary, self._start_state = vocabulary, start_state
        self._deliver, self._give_up, self._failed, self._observer = deliver, give_up, failed, observer
        self._places = [Place() for _ in rows]
        self._texts: dict[int, Placement] = {}  # by stream
        self._homeless: dict[int, Placement] = {}  # by stream: those that wait for an engine, or for their trial
        self._suspect: Placement | None = None  # that runs now
        # For texts that are submitted once more; the first time it is the stream's.
        self._numbers = itertools.count(-1, -1)
        self._homes: PrefixIndex[int] = PrefixIndex()
        self._ready: EngineReady | None = None
        self._tasks = set[asyncio.Task[None]]()
        self._is_stopped = False
        self._started: list[StartedProcess] = []

    async def connect(self, started: Sequence[StartedProcess]) -> None:
        """Use these processes, one for each index."""
        self._ready = started[0].ready
        for index, one in enumerate(started):
            await self._connect(index, one)
        self._keep(self._watch())

    def stop(self) -> None:
        """End all processes; from any thread."""
        self._is_stopped = True
        stop_all(list(self._started))

    def submit(self, command: Command) -> None:
        """Hand a command to the engine that has the text."""
        match command:
            case Request():
                placement = Placement(replace(command, state_chars=STATE_CHARS), credit=command.window)
                self._texts[command.stream] = placement
                self._place(placement, placement.request)
            case Grant(stream, chars) if stream in self._texts:
                self._texts[stream].credit += chars
                self._forward(self._texts[stream], lambda number: Grant(number, chars))
            case Cancel(stream) if stream in self._texts:
                self._forward(self._texts[stream], Cancel)
                self._forget(self._texts[stream])
            case Conclude(stream, reason) if stream in self._texts:
                self._conclude(self._texts[stream], reason)

    def _conclude(self, placement: Placement, reason: Reason) -> None:
        """End the text where its reader is."""
        placement.conclusion = placement.conclusion or reason
        engine = self._engine_of(placement)
        if engine is None or placement.is_behind:
            self._end(placement, reason)
        else:
            engine.submit(Conclude(placement.number, reason))
            asyncio.get_running_loop().call_later(CONCLUDE_SECONDS, self._end_late, placement, reason)

    def _end_late(self, placement: Placement, reason: Reason) -> None:
        if self._texts.get(placement.request.stream) is placement:
            self._end(placement, reason)

    def _end(self, placement: Placement, reason: Reason) -> None:
        """End a text without an engine: none has it where its reader is, or not one that answers in time."""
        self._forward(placement, Cancel)
        self._forget(placement)
        end = placement.end(reason, self._vocabulary, self._start_state)
        self._deliver([end], time.monotonic(), lambda handled: None)

    def _engine_of(self, placement: Placement) -> EngineProcess | None:
        return None if placement.engine is None else self._places[placement.engine].engine

    def _forward(self, placement: Placement, command: Callable[[int], Command]) -> None:
        engine = self._engine_of(placement)
        if engine:
            engine.submit(command(placement.number))

    def _forget(self, placement: Placement) -> None:
        self._leave(placement)
        self._texts.pop(placement.request.stream, None)
        if placement is self._suspect:
            self._end_trial()

    def _leave(self, placement: Placement) -> None:
        """Take the text from the engine that has it, or from those that wait for one."""
        if placement.engine is None:
            self._homeless.pop(placement.request.stream, None)
        else:
            self._places[placement.engine].placements.pop(placement.number, None)
        placement.engine = None

    def _place(self, placement: Placement, request: Request) -> None:
        """Submit the request, which is the text's or its replay, to an engine."""
        is_suspect = placement.fruitless >= SUSPECT or placement.barren >= BARREN
        index = None if is_suspect and self._suspect else self._choose(request)
        if index is None:
            self._homeless[placement.request.stream] = placement
            return
        if is_suspect:
            self._suspect = placement
        self._submit_to(index, placement, request)

    def _place_homeless(self) -> None:
        homeless, self._homeless = self._homeless, {}
        for placement in homeless.values():
            self._place(placement, placement.replay(self._vocabulary))

    def _end_trial(self) -> None:
        """Let the next suspect run."""
        self._suspect = None
        self._place_homeless()

    def _submit_to(self, index: int, placement: Placement, request: Request) -> None:
        place, is_first = self._places[index], not placement.placed
        number = request.stream if is_first else next(self._numbers)
        placement.engine, placement.number, placement.placed = index, number, time.monotonic()
        place.placements[number] = placement
        assert place.engine
        place.engine.submit(request if is_first else replace(request, stream=number))

    def _choose(self, request: Request) -> int | None:
        """Return the engine with the fewest texts, or one that knows the prompt; None if there is none."""
        loads = {index: len(place.placements) for index, place in enumerate(self._places) if place.engine}
        if not loads:
            return None
        index = min(loads, key=lambda index: loads[index] / self._rows[index])
        if len(loads) == 1 or request.origin or request.silent < LONG_PROMPT:
            return index
        prompt = request.forced[: request.silent]
        home = self._homes.longest(prompt)
        if home in loads and loads[home] <= loads[index] * (1 + EXTRA_SHARE) + EXTRA_TEXTS:
            index = home
        if not request.begun.received:
            self._homes.put(prompt, index)
            if len(self._homes) > KNOWN_PROMPTS:
                self._homes.drop_oldest()
        return index

    def _receive(self, engine: EngineProcess, frame: TickFrame) -> None:
        """Hand out the outputs of a tick under the streams' own numbers."""
        place, outputs = self._places[engine.index], list[Output]()
        placements = place.placements
        for number, text in zip(frame.streams, frame.texts, strict=True):
            placement = placements.get(number)
            if placement:
                placement.note_text(text)
                outputs.append(Output(placement.request.stream, text, None))
        for output in frame.others:
            placement = placements.get(output.stream)
            if placement:
                outputs.append(self._take(placement, output))
        if outputs:
            place.delivered = time.monotonic()
            self._deliver(outputs, frame.posted, engine.submit)
            if self._suspect and not self._suspect.barren:
                self._end_trial()
        elif frame.streams or frame.others:
            # All of it was for texts that were cancelled; the engine still waits to hear.
            engine.submit(Handled(1, 0.0))
        for name, arguments in frame.events:
            getattr(place.observer, name)(*arguments)
        if frame.waiting:
            self._relieve(engine, frame.waiting)

    def _take(self, placement: Placement, output: Output) -> Output:
        placement.note(output)
        finish = output.finish and placement.finish(output.finish)
        if finish:
            self._forget(placement)
        return Output(placement.request.stream, output.text, finish, output.scores, output.snapshot)

    def _relieve(self, engine: EngineProcess, waiting: Sequence[int]) -> None:
        """Move texts that wait for their first slot in this engine to engines that have free ones."""
        numbers = iter(waiting)
        for index, place in enumerate(self._places):
            if not place.engine or place.engine is engine:
                continue
            for number in itertools.islice(numbers, max(0, self._rows[index] - len(place.placements))):
                placement = self._places[engine.index].placements.get(number)
                if placement:
                    self._move(placement, index)

    def _move(self, placement: Placement, index: int) -> None:
        """Let another engine go on with the text, if its end is not on its way."""
        if placement.conclusion:
            return
        self._forward(placement, Cancel)
        self._leave(placement)
        self._submit_to(index, placement, placement.replay(self._vocabulary))

    def _lose(self, engine: EngineProcess, error: Exception | None) -> None:
        """Go on elsewhere with the texts of a process that is gone, and start another one in its place."""
        place = self._places[engine.index]
        place.observer.on_end()
        placements, place.placements, place.engine = place.placements, {}, None
        self._started.remove(engine.started)
        if self._is_stopped:
            return
        self._keep(self._succeed(engine, place, error, len(placements)))
        self._observer.on_death(len(placements))
        for placement in placements.values():
            placement.engine = None
            is_trial = placement is self._suspect and len(placements) <= self._rows[engine.index]
            is_fruitless = is_trial or place.delivered < placement.placed
            placement.fruitless = placement.fruitless + 1 if is_fruitless else 0
            placement.barren += 1
        if self._suspect and self._suspect.engine is None:
            self._suspect = None
        for placement in placements.values():
            if placement.fruitless >= GUILTY:
                self._forget(placement)
                self._give_up(placement.request.stream, EnginesDied(placement.fruitless))
            elif placement.conclusion:
                self._end(placement, placement.conclusion)
            else:
                self._homeless[placement.request.stream] = placement
        self._place_homeless()

    def _share_texts(self, index: int) -> None:
        """Move texts to a successor until it has its share: those of its predecessor are with the other engines."""
        places = [place for place in self._places if place.engine]
        share = sum(len(place.placements) for place in places) // len(places)
        for place in places:
            surplus = min(len(place.placements) - share, share - len(self._places[index].placements))
            if surplus > 0:
                for placement in sorted(place.placements.values(), key=attrgetter("chars"))[:surplus]:
                    self._move(placement, index)

    async def _watch(self) -> None:
        """Kill engines that have texts and give no sign of life: their texts go on elsewhere."""
        while not self._is_stopped:
            await asyncio.sleep(PING_SECONDS)
            for place in self._places:
                engine = place.engine
                if engine and place.placements and engine.ping() > MOST_PINGS:
                    seconds = MOST_PINGS * PING_SECONDS
                    log.error("engine process %d gave no sign of life for %g s and is killed", engine.pid, seconds)
                    engine.started.process.kill()

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _succeed(self, engine: EngineProcess, place: Place, error: Exception | None, texts: int) -> None:
        """Start a successor; the server ends if none can be kept alive, and no other engine works."""
        is_short = time.monotonic() - place.began < SHORT_SECONDS and place.delivered < place.began
        place.failures = place.failures + 1 if is_short else 0
        code = await asyncio.to_thread(_wait, engine.started)
        reason = repr(error) if error else describe_exit(code)
        log.error("engine process %d ended: %s; its %d texts go on", engine.pid, reason, texts)
        while place.failures < MOST_FAILURES or any(other.engine for other in self._places):
            await asyncio.sleep(WAITS[min(place.failures, len(WAITS) - 1)])
            if self._is_stopped:
                return
            try:
                started = await asyncio.to_thread(self._start_equal, engine.index)
            except Exception as failure:
                if self._is_stopped:
                    return
                place.failures, reason = place.failures + 1, str(failure)
                log.error("no engine process could be started: %s", failure)
                continue
            await self._connect(engine.index, started)
            if place.engine and not self._is_stopped:  # it may have died while it was connected
                self._share_texts(engine.index)
                log.info("engine process %d is ready in its place", started.process.pid)
            return
        if self._is_stopped:
            return
        error = RuntimeError(f"no engine process can be kept alive; the last one: {reason}")
        log.critical("the server ends: %s", error)
        self._failed(error)

    def _start_equal(self, index: int) -> StartedProcess:
        """Start a process that computes the same as the others. Raises CannotRun if it does not, or as `start`."""
        started = self._start(index, lambda: not self._is_stopped)
        if started.ready != self._ready:
            started.stop()
            raise CannotRun(f"a new one computes as {started.ready}, not as {self._ready}")
        return started

    async def _connect(self, index: int, started: StartedProcess) -> None:
        place, engine = self._places[index], EngineProcess(index, started, self._receive, self._lose)
        self._started.append(started)
        if self._is_stopped:  # looked at after the process is known: `stop` runs in another thread
            await asyncio.to_thread(started.stop)
            return
        place.began = time.monotonic()
        place.observer = self._observer.engine(index, engine.pid)
        place.observer.on_start()
        place.engine = engine
        await engine.connect()
        self._place_homeless()


def _wait(started: StartedProcess) -> int | None:
    started.stop()
    return started.process.returncode
