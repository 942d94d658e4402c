"""Replace replicas behind Envoy one after the other, with a new version of the model, while texts stream.

    python -m benchmarks.replicas.rollout [--streams 100] [--plain 20]

Our client must see no error, and each of its texts must be the one of the version with which it began. Plain readers of
gRPC's stubs do not go on by themselves: their texts end with UNAVAILABLE where a drain's grace is over, and with no
other status.
"""

import argparse
import asyncio
import shutil
import sys
from collections import Counter
from pathlib import Path

import grpc

from benchmarks.replicas.chaos import (
    COUNT,
    MODEL,
    PATIENCE,
    PROMPT,
    TEMPERATURE,
    Chaos,
    Readers,
    find_wrong,
    prepare_models,
    print_phases,
    read_versions,
    run_scenario,
    scenario_parser,
    write_keys,
)
from benchmarks.replicas.replicas import Replicas
from benchmarks.support.envoy import EnvoyProcess, local_configuration
from benchmarks.support.load import open_stub
from client import AsyncClient
from protos import charstream_pb2 as pb


async def read_plainly(chaos: Chaos, seed: int, chars: int, ends: Counter[str]) -> None:
    """Read one text after the other with gRPC alone; count how they end."""
    async with open_stub(chaos.envoy.address) as stub:
        while not chaos.is_over:
            sampling = pb.Sampling(temperature=TEMPERATURE)
            request = pb.GenerateRequest(prompt=PROMPT, model=MODEL, seed=seed, max_chars=chars, sampling=sampling)
            received = 0
            try:
                async for message in stub.Generate(request):
                    received += len(message.text)
            except grpc.RpcError as error:
                ends[f"{error.code().name} {'after its beginning' if received else 'at once'}"] += 1
            else:
                ends["complete" if received == chars else "SHORT"] += 1
            seed += 1


async def replace_all(chaos: Chaos, second: Path, seconds: float) -> None:
    with chaos.phase("before"):
        await asyncio.sleep(seconds)
    with chaos.phase("rollout"):
        for number in range(COUNT):
            await asyncio.to_thread(chaos.replicas.drain, number)
            shutil.copytree(second, chaos.replicas.models[number] / MODEL / "2")
            await asyncio.to_thread(chaos.replicas.start, number)
            await asyncio.to_thread(chaos.envoy.wait_for_healthy, COUNT)
    with chaos.phase("after"):
        await asyncio.sleep(seconds)
    chaos.is_over = True


async def run(settings: argparse.Namespace, folder: Path) -> bool:
    """Return whether our client's texts are whole, and plain ones were cut by nothing but the grace."""
    models, second = prepare_models(folder, settings.bundles or folder, settings.hidden)
    keys, ends = folder / "keys", Counter[str]()
    write_keys(keys, "a key " * 8)
    life = ("--drain-delay", "3", "--grace", str(settings.grace), "--chunk-delay", "100")
    flags = ("--resume-keys", str(keys), "--engines", "0", "--threads", "1", *life)
    with Replicas(models[:COUNT], *flags) as replicas, EnvoyProcess(local_configuration(replicas.addresses)) as envoy:
        await asyncio.to_thread(envoy.wait_for_healthy, COUNT)
        async with AsyncClient(envoy.address, patience=PATIENCE) as client:
            chaos = Chaos(replicas, client, envoy, keys)
            readers = Readers(chaos, settings.chars)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(replace_all(chaos, second, settings.seconds))
                await asyncio.sleep(0)  # the first phase begins
                for seed in range(settings.streams):
                    tasks.create_task(readers.read_one_after_another(seed, settings.streams, 0.0))
                for number in range(settings.plain):
                    tasks.create_task(read_plainly(chaos, 1_000_000 + 1000 * number, settings.chars, ends))
    print_phases(chaos, readers, settings)
    print(f"plain readers: {dict(ends)}")
    wrong = await find_wrong(readers, models[COUNT], await read_versions(models[COUNT]), settings.chars)
    print(f"texts that differ from the undisturbed ones: {len(wrong)} of {len(readers.streams)} {wrong[:10] or ''}")
    allowed = {"complete", "UNAVAILABLE after its beginning"}
    return not wrong and not chaos.refused and set(ends) <= allowed


def main() -> int:
    """Exit code 1 if a text of our client differs, or anybody saw another error than the one that is expected."""
    parser = scenario_parser("rollout", __doc__, streams=100)
    parser.add_argument("--plain", type=int, default=20, help="texts of gRPC's stubs at a time (%(default)s)")
    parser.add_argument("--grace", type=float, default=5, help="seconds that texts get in a drain (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="before and after (%(default)s)")
    return run_scenario("rollout", run, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
