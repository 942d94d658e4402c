"""Characters a second of one replica and of several, by the client's own balancing and through Envoy.

    python -m benchmarks.replicas.balance [--replicas 8] [--streams 4,16,64]
    python -m benchmarks.replicas.balance --replicas 1 --engine real --streams 16

`--engine played` (the default): engine processes compute nothing and send each text at a fixed pace, so that several
replicas on one machine are as quick as on several, until its cores, or the readers, are used up: who is busy is shown.
Then one replica with S texts and all of them with S texts each are measured in turn, by both ways. How many texts each
replica has is asked in the middle of a measurement.

`--engine real`: an untrained LSTM, and all replicas by both ways: what Envoy costs.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.replicas.replicas import Replicas
from benchmarks.support.envoy import EnvoyProcess, local_configuration, require_envoy
from benchmarks.support.load import percentiles
from benchmarks.support.machine import describe_machine, process_tree, thread_seconds
from benchmarks.support.rounds import measure_in_turn, rounds_parser
from benchmarks.support.servers import untrained_bundle
from client import AsyncClient

STEP_MICROSECONDS = "2000"  # of a played engine: 500 characters a second for each text
TEXTS_OF_A_CONNECTION = 1000  # Envoy and servers let one connection have 1,024 calls
CHARS = {"played": 4000, "real": 1000}


@dataclass(frozen=True)
class Measured:
    """One measurement: characters and messages a second, seconds to first characters, CPU seconds a second."""

    chars: float
    messages: float
    first: list[float]
    texts: list[int]  # of each replica, in the middle
    cpu: dict[str, float]


def _cpu(pids: Sequence[int]) -> float:
    return sum(sum(thread_seconds(each).values()) for pid in pids for each in process_tree(pid))


async def _measure(
    addresses: list[str], replicas: Replicas, envoy: EnvoyProcess, streams: int, seconds: float, chars: int
) -> Measured:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(addresses)) for _ in range(0, streams, TEXTS_OF_A_CONNECTION)
        ]
        arrivals: list[tuple[float, int]] = []
        first: list[float] = []
        begin = time.perf_counter()
        end, counted = begin + seconds, begin + seconds / 4

        async def read(number: int) -> None:
            await asyncio.sleep(seconds / 8 * number / streams)
            client = clients[number % len(clients)]
            while (asked := time.perf_counter()) < end:
                is_first = True
                async for text in (stream := client.stream("", max_chars=chars)):
                    now = time.perf_counter()
                    arrivals.append((now, len(text)))
                    if is_first:
                        first.append(now - asked)
                    is_first = False
                    if now >= end:
                        break
                stream.cancel()

        async def count_texts() -> list[int]:
            await asyncio.sleep(seconds / 2)
            return [await _texts(address) for address in replicas.addresses]

        pids = [replicas.server(number).pid for number in range(len(replicas.addresses))]
        before = time.process_time(), _cpu([envoy.pid]), _cpu(pids)
        texts, *_ = await asyncio.gather(count_texts(), *map(read, range(streams)))
        took = time.perf_counter() - begin
        names = ("readers", "Envoy", "servers")
        after = time.process_time(), _cpu([envoy.pid]), _cpu(pids)
        cpu = {name: (b - a) / took for name, a, b in zip(names, before, after, strict=True)}
    kept = [size for at, size in arrivals if counted <= at < end]
    return Measured(sum(kept) / (end - counted), len(kept) / (end - counted), first, texts, cpu)


async def _texts(address: str) -> int:
    async with AsyncClient(address) as client:
        return sum(model.texts for model in await client.models())


def _measure_now(*given: object) -> Measured:
    return asyncio.run(_measure(*given))  # type: ignore[arg-type]


def main() -> int:
    parser = rounds_parser("replicas.balance", __doc__, rounds=3, seconds=10)
    parser.add_argument("--replicas", type=int, default=8, help="number of servers (%(default)s)")
    parser.add_argument("--streams", default="4,16,64", help="texts at a time for each replica (%(default)s)")
    parser.add_argument("--engine", choices=CHARS, default="played", help="(%(default)s)")
    parser.add_argument("--models", type=Path, help="folder of a bundle; default: an untrained LSTM")
    parser.add_argument("--hidden", type=int, default=256, help="units of the real model's layers (%(default)s)")
    settings = parser.parse_args()
    require_envoy("balance")
    print(describe_machine(), flush=True)
    is_played = settings.engine == "played"
    module = ("benchmarks.support.played_engine", STEP_MICROSECONDS) if is_played else ("server",)
    delay = ("--chunk-delay", "200") if is_played else ()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models: Path | None = settings.models
        if models is None:
            hidden = 32 if is_played else settings.hidden
            models = untrained_bundle(folder / "models" / "model", hidden=hidden, precisions=["fp32"]).parent
        flags = ("--engines", "1", "--threads", "1", "--no-log-calls", *delay)
        replicas = stack.enter_context(Replicas([models] * settings.replicas, *flags, module=module))
        envoys = {
            count: stack.enter_context(EnvoyProcess(local_configuration(replicas.addresses[:count])))
            for count in {1, settings.replicas}
        }
        for count, envoy in envoys.items():
            envoy.wait_for_healthy(count)
        for streams in map(int, settings.streams.split(",")):
            cases: dict[str, Callable[[], Measured]] = {}
            for count, envoy in sorted(envoys.items()):
                rest = (replicas, envoy, streams * count, settings.seconds, CHARS[settings.engine])
                cases[f"{count} by the client"] = partial(_measure_now, replicas.addresses[:count], *rest)
                cases[f"{count} through Envoy"] = partial(_measure_now, [envoy.address], *rest)
            _print(measure_in_turn(cases, settings.rounds), streams, settings.replicas)
    return 0


def _print(found: dict[str, list[Measured]], streams: int, replicas: int) -> None:
    speeds = {name: statistics.median(each.chars for each in rounds) for name, rounds in found.items()}
    for name, rounds in found.items():
        count, _, way = name.partition(" ")
        middle, high = percentiles([1e3 * value for each in rounds for value in each.first])
        cpu = {who: statistics.median(each.cpu[who] for each in rounds) for who in rounds[0].cpu}
        messages = statistics.median(each.messages for each in rounds)
        line = f"{streams} texts each, {name}: {speeds[name]:,.0f} chars/s, {messages:,.0f} messages/s"
        if count != "1":
            line += f", {speeds[name] / speeds[f'1 {way}'] / replicas:.3f} of {replicas} times one"
            texts = [count for each in rounds for count in each.texts]
            line += f", each with {min(texts)} to {max(texts)}"
        print(f"{line}; first character {middle:.0f} ms, p99 {high:.0f}; ", end="")
        print("CPU seconds a second: " + ", ".join(f"{who} {value:.2f}" for who, value in cpu.items()))
        if "Envoy" in way and messages:
            print(f"    Envoy: {1e6 * cpu['Envoy'] / messages:.0f} us of CPU a message")
    for count in sorted({name.partition(" ")[0] for name in found}):
        pairs = zip(found[f"{count} through Envoy"], found[f"{count} by the client"], strict=True)
        ratio = statistics.median(through.chars / by.chars for through, by in pairs)
        print(f"    {count}: through Envoy / by the client, within a round: {ratio:.3f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
