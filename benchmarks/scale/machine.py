"""A simulation of one machine: the server's own scheduler, driven by a clock that nobody waits for.

The scheduler, its rows, its measured step times and the way in which it stretches runs for a late event loop are the
server's; played are the graph (a time a step), the event loop and the readers (a time a message), and the cores, which
all that want to run share evenly.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from benchmarks.scale.costs import Costs
from server.engine.plan import MAX_STEPS, PREFILL_ROWS, Chunking, Plan, Row, RunLimits, RunSplit
from server.engine.scheduler import Scheduler
from server.engine.step_timer import StepTimer

__all__ = ["Load", "Machine", "Result", "simulate"]

LOOP_SHARE = 0.5  # as in server/engine/backlog.py
MAX_BATCH = 256
CREDIT = 1 << 40


@dataclass(frozen=True)
class Machine:
    """A machine and what it serves.

    Attributes:
        step_seconds: gives the seconds of a step by the number of rows.
        engines_compute: whether a step takes a core; an engine that is played only waits.
        chunk_delay: seconds.
    """

    cores: float
    engines: int
    step_seconds: Callable[[int], float]
    costs: Costs
    chunk_delay: float = 0.02
    engines_compute: bool = True
    clients: int = 1


@dataclass(frozen=True)
class Load:
    """Readers who begin another text when theirs has ended.

    Attributes:
        max_chars: of a message; None for what comes in the chunk delay.
    """

    streams: int
    text_chars: int = 2000
    max_chars: int | None = None


@dataclass(frozen=True)
class Result:
    """Figures a second; `front`, `client`, `engine`: of a core each (of one engine, the mean)."""

    chars: float
    messages: float
    front: float
    client: float
    engine: float
    first_char: Sequence[float]
    """Seconds from the call to the first character, sorted."""


@dataclass(eq=False)
class Text(Row):
    """A text with what the simulation keeps of it."""

    begun: float = 0.0
    seen: bool = False
    pending: int = 0


@dataclass
class Post:
    """The outputs of one run on their way: by text, its characters."""

    engine: "Engine"
    texts: list[tuple[Text, int]]
    posted: float


@dataclass
class Job:
    """Work of a thread: seconds of a core, or of waiting; what follows it."""

    left: float
    then: Callable[[], None]
    computes: bool = True
    is_engine: bool = False


@dataclass
class Thread:
    """Does one job after the other."""

    jobs: deque[Job] = field(default_factory=deque)
    busy: float = 0.0  # seconds of a core


class Engine(Thread):
    """An engine process with the server's scheduler."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self.world, machine = world, world.machine
        self.timer = StepTimer(lambda rows: rows)
        steps = range(1, MAX_STEPS + 1)
        limits = RunLimits(1 << 16, MAX_BATCH, steps, steps, 1 << 30, PREFILL_ROWS, 1 << 16, overlaps=False)
        self.scheduler: Scheduler[Text] = Scheduler(limits, machine.chunk_delay, self.timer.step_seconds)
        self.texts, self.unhandled, self.is_busy = 0, 0, False
        self.posted = self.period = 0.0
        for size in range(1 + MAX_BATCH.bit_length()):
            self.timer.measure(1 << size, False, 1, machine.step_seconds(1 << size))

    def wake(self) -> None:
        """Begin a run if none is at work and there are rows."""
        if self.jobs:
            return
        self.scheduler.admit()
        is_late = self.unhandled > 1
        plan = self.scheduler.plan(behind=is_late or self.is_busy)
        if plan:
            began, rows, machine = (
                self.world.now + self.world.machine.costs.engine_run,
                len(plan.rows),
                self.world.machine,
            )
            work = plan.steps * machine.step_seconds(rows)

            def end() -> None:
                self.timer.measure(rows, False, plan.steps, self.world.now - began)
                self.deliver(plan, postpone=plan.postpone or is_late)

            self.jobs.append(Job(machine.costs.engine_run, lambda: None))
            self.jobs.append(Job(work, end, computes=machine.engines_compute, is_engine=True))

    def deliver(self, plan: Plan[Text], *, postpone: bool) -> None:
        split = RunSplit[Text](plan.postpone)
        split.fill(plan, overlaps=False)
        ready = list[tuple[Text, int]]()
        for text, _, _, forced, end, can_wait in split.at_once:
            text.pending += end - forced
            if text.pending and not (postpone and can_wait and not text.is_done):
                ready.append((text, text.pending))
                text.pending = 0
        for text in split.leaving:
            if text.is_done:
                self.scheduler.end(text)
        if not ready:
            self.wake()
            return

        def post() -> None:
            self.unhandled += 1
            self.posted, self.period = self.world.now, self.world.now - self.posted
            self.world.handle(Post(self, ready, self.world.now))
            self.wake()

        self.jobs.append(Job(len(ready) * self.world.machine.costs.engine_message, post))


class World:
    """The clock, the threads and the counts."""

    def __init__(self, machine: Machine, load: Load) -> None:
        self.machine, self.load, self.now = machine, load, 0.0
        self.front, self.clients = Thread(), [Thread() for _ in range(machine.clients)]
        self.engines = [Engine(self) for _ in range(machine.engines)]
        self.numbers = count()
        self.chars = self.messages = 0
        self.first_char: list[float] = []
        for _ in range(load.streams):
            self.begin()

    @property
    def threads(self) -> list[Thread]:
        return [self.front, *self.clients, *self.engines]

    def begin(self) -> None:
        """A reader begins a text, at the engine with the fewest."""
        engine = min(self.engines, key=lambda one: one.texts)
        engine.texts += 1
        chunking = Chunking(max_chars=self.load.max_chars)
        text = Text(next(self.numbers), 0, 0, self.load.text_chars, CREDIT, chunking, begun=self.now)

        def arrive() -> None:
            engine.scheduler.add(text)
            engine.wake()

        self.front.jobs.append(Job(self.machine.costs.call, arrive))

    def handle(self, post: Post) -> None:
        most = self.load.max_chars
        messages = [(text, chars, -(-chars // most) if most else 1) for text, chars in post.texts]
        number = sum(parts for _, _, parts in messages)

        def handled() -> None:
            post.engine.unhandled -= 1
            post.engine.is_busy = self.now - post.posted > LOOP_SHARE * post.engine.period
            for place, client in enumerate(self.clients):
                part = messages[place :: len(self.clients)]
                if part:
                    cost = sum(parts for *_, parts in part) * self.machine.costs.client_message
                    client.jobs.append(Job(cost, lambda part=part: self.arrive(post.engine, part)))

        self.front.jobs.append(Job(number * self.machine.costs.front_message, handled))

    def arrive(self, engine: Engine, messages: Sequence[tuple[Text, int, int]]) -> None:
        for text, chars, parts in messages:
            self.chars += chars
            self.messages += parts
            if not text.seen:
                text.seen = True
                self.first_char.append(self.now - text.begun)
            if text.is_done:
                engine.texts -= 1
                self.begin()

    def run(self, until: float) -> None:
        """Let the threads work until that time."""
        while self.now < until:
            working = [thread for thread in self.threads if thread.jobs]
            wanting = sum(thread.jobs[0].computes for thread in working)
            share = min(1.0, self.machine.cores / wanting) if wanting else 1.0
            slowed = self.machine.costs.shared if wanting > 1 else 1.0

            def rate(job: Job, share: float = share, slowed: float = slowed) -> float:
                return (share * (slowed if job.is_engine else 1.0)) if job.computes else 1.0

            if not working:
                return
            step = min(min(thread.jobs[0].left / rate(thread.jobs[0]) for thread in working), until - self.now)
            self.now += step
            for thread in working:
                job = thread.jobs[0]
                job.left -= step * rate(job)
                thread.busy += step * share * job.computes
                if job.left <= 1e-12:
                    thread.jobs.popleft()
                    job.then()


def simulate(machine: Machine, load: Load, seconds: float = 2.0, warm: float = 1.0) -> Result:
    """Return what the machine does under the load, from `warm` seconds after the beginning on."""
    world = World(machine, load)
    world.run(warm)
    chars, messages, first = world.chars, world.messages, len(world.first_char)
    busy = [thread.busy for thread in world.threads]
    world.run(warm + seconds)
    used = [(thread.busy - before) / seconds for thread, before in zip(world.threads, busy, strict=True)]
    engines = used[1 + machine.clients :]
    return Result(
        (world.chars - chars) / seconds,
        (world.messages - messages) / seconds,
        used[0],
        sum(used[1 : 1 + machine.clients]),
        sum(engines) / len(engines),
        sorted(world.first_char[first:]),
    )
