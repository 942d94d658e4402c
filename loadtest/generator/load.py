"""The load of one process: users that ask one text after the other, or streams that begin by the clock. asyncio."""

import asyncio
import itertools
import random
from collections.abc import Iterator
from typing import Any

import grpc.aio

from client.channels import Servers
from loadtest.generator.checks import Checks
from loadtest.generator.config import GeneratorConfig, read_alone
from loadtest.generator.streams import Caller, Outcome, clock
from loadtest.measures.measures import Measures
from loadtest.measures.objectives import Objectives
from loadtest.measures.record import StreamRecord
from loadtest.measures.timeline import Timeline
from loadtest.scenarios.arrivals import arrival_times, share_of
from loadtest.scenarios.calls import Call
from loadtest.scenarios.mix import stretch
from loadtest.scenarios.trace import read_trace

__all__ = ["Load"]

PAUSE_SECONDS = 1.0  # after a failure: a server that refuses at once must not be flooded
PATIENCE = 30.0
CONNECTIONS = 32  # of an open loop, where texts belong to no user
PROCESS_BITS, USER_BITS = 48, 32  # a seed is process, user and text


class Load:
    """The streams of this process and what they measure. The run begins when it is made."""

    def __init__(self, config: GeneratorConfig) -> None:
        self._config, self._mix = config, config.scenario.calls()
        self._begin = clock()
        self.objectives = Objectives.parse(config.scenario.goodput)
        self.measures = self._new_measures()
        alone = read_alone(config.alone) if config.alone and config.alone.exists() else []  # not on other machines
        self.checks = Checks(config.scenario.check, random.Random(config.process), alone)
        self.ended: list[StreamRecord] = []
        self._users: dict[int, asyncio.Task[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._servers: list[Servers] = []
        self._halted_at: float | None = None
        self._error: BaseException | None = None

    def join(self, number: int) -> None:
        self._users[number] = self._keep(asyncio.create_task(self._use(number)))

    def leave(self, number: int) -> None:
        if user := self._users.pop(number, None):
            user.cancel()

    def dispatch(self) -> None:
        """Begin this process's share of the streams, by the clock."""
        self._users[0] = self._keep(asyncio.create_task(self._dispatch()))

    async def halt(self) -> None:
        """End all streams at once."""
        self._halted_at = self._halted_at or clock()
        for number in list(self._users):
            self.leave(number)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        await self.halt()
        await asyncio.gather(*(channel for servers in self._servers for channel in servers.close()))

    def take(self) -> tuple[Measures, list[StreamRecord]]:
        """Return what was measured since the last time, and the records of the streams that ended.

        Raises the error of a stream that could not be recorded, which is a fault of this program.
        """
        if self._error:
            raise self._error
        found, ended = self.measures, self.ended
        found.seconds = max(0.0, (self._halted_at or clock()) - self._begin - self._config.warmup)
        self.measures, self.ended = self._new_measures(), []
        return found, ended

    def _new_measures(self) -> Measures:
        timeline = Timeline(self._begin, self._config.interval)
        return Measures(self.objectives, self._begin + self._config.warmup, timeline)

    async def _use(self, user: int) -> None:
        """Ask one text after the other; what the next one is does not depend on the server's speed."""
        scenario, caller, texts = self._config.scenario, self._caller(), itertools.count()
        chance = random.Random(self._seed(user, 0))
        while True:
            intended = clock()
            outcome = await self._make(
                caller, self.checks.choose(lambda: self._fresh(chance, user, next(texts))), intended
            )
            if outcome.error:
                await asyncio.sleep(outcome.retry_after or PAUSE_SECONDS)
            elif scenario.wait:
                await asyncio.sleep(scenario.wait)
            else:
                await asyncio.sleep(0)  # a server that answers from memory must not keep the others from their turn

    async def _dispatch(self) -> None:
        callers = [self._caller() for _ in range(CONNECTIONS)]
        begin = self._begin
        for number, at, call in self._schedule():
            intended = begin + at
            if (wait := intended - clock()) > 0:
                await asyncio.sleep(wait)
            if len(self._tasks) >= self._config.scenario.most_streams / self._config.processes:
                self.measures.counts["unsent"] += intended >= self.measures.begin
                await asyncio.sleep(0)
                continue
            self._keep(asyncio.create_task(self._make(callers[number % CONNECTIONS], call(), intended)))

    def _schedule(self) -> Iterator[tuple[int, float, Any]]:
        """Yield the number, the time and what makes the call of each stream of this process."""
        config, scenario, chance = self._config, self._config.scenario, random.Random(self._seed(0, 0))
        texts = itertools.count()
        if scenario.scenario == "replay" and scenario.trace:
            calls = read_trace(scenario.trace)
            for number, at in share_of((call.time for call in calls), config.process, config.processes):
                traced = calls[number]
                prompt = stretch(config.prompts, number, traced.prompt_chars) if traced.prompt_chars else ""
                call = Call(
                    "replayed", prompt, self._seed(0, number), traced.max_chars, temperature=scenario.temperature
                )
                yield number, at, lambda call=call: call
        else:
            times = arrival_times(scenario.arrivals, scenario.rate or 1.0, burstiness=scenario.burstiness)
            for number, at in share_of(times, config.process, config.processes):
                yield number, at, lambda: self.checks.choose(lambda: self._fresh(chance, 0, next(texts)))

    def _fresh(self, chance: random.Random, user: int, text: int) -> Call:
        config = self._config
        return self._mix.draw(chance, config.prompts, user + text, self._seed(user, text), config.scenario.temperature)

    def _seed(self, user: int, text: int) -> int:
        return self._config.process << PROCESS_BITS | user << USER_BITS | text

    async def _make(self, caller: Caller, call: Call, intended: float) -> Outcome:
        outcome = await caller.make(call, intended)
        self.checks.note(call, outcome.texts, is_whole=outcome.is_whole)
        return outcome

    def _caller(self) -> Caller:
        connection, scenario = self._config.connection, self._config.scenario
        servers = Servers(
            grpc.aio,
            connection.host,
            credentials=connection.credentials(),
            token=connection.token(),
            tls_name=connection.tls_name,
            patience=PATIENCE,
        )
        self._servers.append(servers)
        return Caller(servers, scenario.model, lambda: self.measures, lambda record: self.ended.append(record))

    def _keep(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._error = self._error or task.exception()
