"""An engine with real graphs and no network: requests come at chosen runs, readers take what they are given."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from types import TracebackType
from typing import Any, Self

from bundle.manifest import ON_DEVICE, Manifest, Precision
from bundle.read import decode_file, full_file
from server.engine.engine import Engine
from server.engine.messages import (
    Cancel,
    Chunking,
    Command,
    Finish,
    Grant,
    Handled,
    Output,
    Request,
    Sampling,
    Shutdown,
    StopRule,
)
from server.engine.state_store import RunInput, RunOutput, States, Store, do_nothing
from server.runtime.device_runner import DeviceRunner
from server.runtime.device_states import DeviceStore
from server.runtime.host_runner import Provider, Runner
from server.runtime.host_states import HostStore
from server.runtime.load import device_graphs

__all__ = ["EngineDriver", "Run", "Text", "WatchedRunner", "generation"]

UNBOUNDED = 1 << 30
LONGEST_SECONDS = 30


@dataclass(frozen=True)
class Run:
    """One call of a graph. `is_forced`: every outcome was forced."""

    steps: int
    rows: int
    full: bool
    is_forced: bool


class WatchedRunner:
    """A model's graphs in one precision, whose runs are noted; `before_run` is called before each one's end."""

    def __init__(
        self, manifest: Manifest, files: dict[str, bytes], precision: Precision, provider: Provider = "cpu"
    ) -> None:
        self._manifest, self.on_device = manifest, precision in ON_DEVICE
        if self.on_device:
            graphs = device_graphs(files, precision)
            self._device = DeviceRunner(graphs, threads=1, provider=provider, tf32=False)
        else:
            graph_files = files[decode_file(precision)], files[full_file(precision)]
            self._runner = Runner(*graph_files, manifest.model, len(manifest.symbols), threads=1)
        self.runs: list[Run] = []
        self.before_run: Callable[[], None] = lambda: None

    def store(self, max_rows: int, max_batch: int) -> Store:
        """On a device, runs have `max_batch` or `max_rows` rows, and up to `max_batch` rows come in at once."""
        store: Store
        if self.on_device:
            buckets = sorted({min(max_batch, max_rows), max_rows})
            store = DeviceStore(self._device, self._manifest, buckets, staged=max_batch)
        else:
            store = HostStore(self._runner, self._manifest, max_rows, max_batch)
        store.states = {area: WatchedStates(states, self.note) for area, states in store.states.items()}
        return store

    def note(self, run_input: RunInput, full: bool) -> None:
        self.before_run()
        self.runs.append(Run(*run_input.forced.shape, full, is_forced=bool((run_input.forced >= 0).all())))


class WatchedStates:
    """States that tell of their runs, after what the engine does beside them."""

    def __init__(self, states: States, note: Callable[[RunInput, bool], None]) -> None:
        self._states, self._note = states, note
        self.width, self.warm_up = states.width, states.warm_up
        self.put, self.move, self.take, self.take_before = states.put, states.move, states.take, states.take_before

    def run(self, run_input: RunInput, *, full: bool, meanwhile: Callable[[], None] = do_nothing) -> RunOutput:
        def first() -> None:
            meanwhile()
            self._note(run_input, full)

        return self._states.run(run_input, full=full, meanwhile=first)


@dataclass
class Text:
    """What came of one request.

    Attributes:
        pause: runs that its reader lets pass before it takes a delivery.
        leave: deliveries after which its reader is gone; None to stay.
        came: the number of the last run before each delivery, counted from 1.
    """

    request: Request
    pause: int
    leave: int | None
    parts: list[str] = field(default_factory=list)
    came: list[int] = field(default_factory=list)
    finish: Finish | None = None
    cancelled: bool = False

    def __str__(self) -> str:
        return "".join(self.parts)


def generation(
    manifest: Manifest,
    prompt: str = "",
    max_chars: int = 50,
    *,
    seed: int = 0,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    max_delay: float = 10.0,
    **more: Any,
) -> Request:
    """`more`: other attributes."""
    ids = manifest.vocabulary.encode(prompt)
    stops, chunking = StopRule(tuple(stop)), Chunking(max_delay)
    return Request(ids, len(ids), max_chars, sampling or Sampling(), seed, stops=stops, chunking=chunking, **more)


class DrivenEngine(Engine):
    """An engine whose runs are the same on any machine: it is told what a step takes.

    `before_waiting` is called when nothing is left to run and nothing has come.
    """

    before_waiting: Callable[[], None]

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._scheduler.step_seconds = lambda rows, full: (1e-4 if full else 5e-5) * (1 + rows / 16)

    def _take_commands(self) -> None:
        if self._scheduler.idle:
            self._deliver_deferred()
            self._backlog.post()
            if self._commands.empty():
                self.before_waiting()
        super()._take_commands()


class EngineDriver:
    """An engine's thread inside a with statement; it begins with `finish`, so what was asked before is in its queue.

    What is asked `at` a run is submitted while that run is prepared, so it is carried out before the run that follows,
    or when nothing else is left to run; at 0, it is submitted at once. Runs are counted from 1.

    Args:
        warm: the engine is warmed up; on CUDA its runs are captured then.
        late: runs that pass until the event loop has handled a delivery.
    """

    def __init__(
        self,
        runner: WatchedRunner,
        manifest: Manifest,
        *,
        max_rows: int = 8,
        max_batch: int = 8,
        chunk_delay: float = 0.02,
        prefix_bytes: int = 0,
        warm: bool = False,
        late: int = 0,
    ) -> None:
        self.runner, self.texts, self._warm, self._late = runner, list[Text](), warm, late
        runner.runs, runner.before_run = [], self._submit_due
        self._error: BaseException | None = None
        self._later: list[tuple[int, int, Command]] = []
        self._order = count()
        self._changed = threading.Condition(threading.RLock())
        self.engine = DrivenEngine(
            runner.store(max_rows, max_batch),
            manifest,
            chunk_delay=chunk_delay,
            prefix_bytes=prefix_bytes,
            max_wait=LONGEST_SECONDS,
            deliver=self._take,
            failed=self._fail,
        )
        self.engine.before_waiting = self._submit_next

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine.submit(Shutdown())
        if self.engine.ident:
            self.engine.join(LONGEST_SECONDS)
        self.runner.before_run = lambda: None

    def ask(
        self,
        wanted: Request,
        *,
        window: int = UNBOUNDED,
        at: int = 0,
        pause: int = 0,
        leave: int | None = None,
        identity: str = "",
    ) -> Text:
        """Asks for a text; its reader lets `pause` runs pass before it takes what came, and leaves if told so."""
        request = replace(wanted, stream=len(self.texts), window=window, submitted=time.monotonic(), identity=identity)
        text = Text(request, pause, leave)
        self.texts.append(text)
        self._submit(at, text.request)
        return text

    def cancel(self, text: Text, *, at: int = 0) -> None:
        text.cancelled = True
        self._submit(at, Cancel(text.request.stream))

    def finish(self, *texts: Text) -> None:
        """Waits until these texts have ended; without any, until all but cancelled ones have, and none is to come."""
        if not self.engine.ident:
            (self.engine.start_warm if self._warm else self.engine.start)()
        with self._changed:
            ended = self._changed.wait_for(lambda: self._error or self._have_ended(texts), LONGEST_SECONDS)
        if self._error:
            raise self._error
        assert ended, "a text does not end"

    def _have_ended(self, texts: Sequence[Text]) -> bool:
        if texts:
            return all(text.finish for text in texts)
        return not self._later and all(text.finish or text.cancelled for text in self.texts)

    def _submit(self, at: int, command: Command) -> None:
        if not at:
            self.engine.submit(command)
            return
        with self._changed:
            heappush(self._later, (at, next(self._order), command))

    def _submit_due(self) -> None:
        with self._changed:
            while self._later and self._later[0][0] <= len(self.runner.runs) + 1:
                self.engine.submit(heappop(self._later)[2])

    def _submit_next(self) -> None:
        with self._changed:
            if self._later:
                self.engine.submit(heappop(self._later)[2])
            self._changed.notify()

    def _take(self, outputs: list[Output]) -> None:
        with self._changed:
            run = len(self.runner.runs)
            for output in outputs:
                text = self.texts[output.stream]
                assert not text.finish, "a delivery came after the last one"
                text.parts.append(output.text)
                text.came.append(run)
                text.finish = output.finish
                if len(text.parts) == text.leave and not text.finish:
                    self.cancel(text)
                elif not text.finish:
                    self._submit(text.pause and run + text.pause, Grant(output.stream, len(output.text)))
            # For an event loop that does not keep up, runs get longer, and texts wait for the next message.
            self._submit(self._late and run + self._late, Handled(1, 0.0))
            self._changed.notify()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify()
