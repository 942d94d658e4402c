"""Before the load: does the server answer, what does it write alone, and what could this machine ask for at most."""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc.aio

from client.channels import Servers
from client.commands.common import Connection, connect
from client.errors import Overloaded
from client.results import ModelInfo
from client.sync_client import Client
from loadtest.answers.locust_process import RunFailed, run_locust
from loadtest.generator.config import Alone, write_alone
from loadtest.generator.link import ROOT
from loadtest.generator.streams import Caller
from loadtest.measures.measures import Measures
from loadtest.measures.objectives import Objectives
from loadtest.prompts import choose_prompts
from loadtest.settings import LoadtestSettings

__all__ = ["alone_file", "null_limit", "served_settings"]

CONNECT_SECONDS = 10
ALONE, ALONE_SECONDS = 8, 5.0  # texts, and the time for all of them
ALONE_SEEDS = 0xA10E << 40  # no user's
OPEN_USERS = 64  # of the null server, in place of an open loop's streams


def served_settings(settings: LoadtestSettings) -> tuple[LoadtestSettings, ModelInfo]:
    """Return the settings with prompts, and the model that is served, after one request like those of the load.

    Raises what the server says of a request that cannot work.
    """
    with connect(settings) as client:
        served = client.model(settings.model, timeout=CONNECT_SECONDS)
        settings = settings.model_copy(update={"prompt": settings.prompt or choose_prompts(served)})
        for prompt in settings.prompt:
            _try_request(client, settings, prompt)
    return settings, served


def _try_request(client: Client, settings: LoadtestSettings, prompt: str) -> None:
    options = {"model": settings.model, "max_chars": settings.max_chars, "temperature": settings.temperature}
    with suppress(Overloaded), client.stream(prompt, seed=0, resume=False, **options) as stream:  # type: ignore[arg-type]
        next(iter(stream), "")


@contextmanager
def alone_file(settings: LoadtestSettings) -> Iterator[Path | None]:
    """Yield a file with texts that were made one after the other, before the load; None if nothing is to be checked."""
    if not settings.check or settings.scenario == "replay":
        yield None
        return
    found = asyncio.run(_record_alone(settings))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "alone.json"
        write_alone(file, found)
        yield file


async def _record_alone(settings: LoadtestSettings) -> list[Alone]:
    servers = Servers(
        grpc.aio,
        settings.host,
        credentials=settings.credentials(),
        token=settings.token(),
        tls_name=settings.tls_name,
        patience=CONNECT_SECONDS,
    )
    measures = Measures(Objectives())
    caller = Caller(servers, settings.model, lambda: measures, lambda record: None)
    mix, chance, end = settings.calls(), random.Random(0), time.monotonic() + ALONE_SECONDS
    found: list[Alone] = []
    for number in range(ALONE):
        call = mix.draw(chance, settings.prompt, number, ALONE_SEEDS + number, settings.temperature)
        try:
            async with asyncio.timeout(max(0.1, end - time.monotonic())):
                outcome = await caller.make(call.plain() if call.action == "cancel" else call, time.perf_counter())
        except TimeoutError:
            break
        if outcome.is_whole:
            found.append((call, outcome.texts))
    await asyncio.gather(*servers.close())
    return found


def null_limit(settings: LoadtestSettings, users: int | None = None) -> float | None:
    """Return the messages a second that this machine can take, from a server beside it that costs nothing; None if that
    was not to be measured, or failed."""
    if not settings.null_seconds:
        return None
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "loadtest.generator.null_server"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
    ) as server:  # fmt: skip
        try:
            assert server.stdout
            null = Connection(host=(server.stdout.readline().strip(),))
            changes = {
                **null.model_dump(),
                "scenario": "steady",
                "rate": None,
                "trace": None,
                "mix": None,
                "prompt": ("a",),
                "wait": 0.0,
            }
            changes |= {"users": users or (OPEN_USERS if settings.is_open else settings.users)}
            changes |= {"goodput": "", "require": (), "metrics": "", "check": 0.0, "model": "", "warmup": 0.5}
            run = run_locust(settings.model_copy(update=changes), seconds=settings.null_seconds + 0.5)
        except (RunFailed, ValueError):
            return None
        finally:
            server.terminate()
    rate: float = run["figures"]["messages-per-second"]
    return rate or None
