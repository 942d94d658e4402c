"""What protection and observation cost: throughput with tokens, metrics and logs, and with TLS as well, against none.

One model is served three times; the same readers load the servers in turn, in rounds whose order alternates. Metrics
are scraped every second. Figures are ratios within a round.
"""

import argparse
import asyncio
import hashlib
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme

from benchmarks.speed.compare import interval
from benchmarks.support.load import grpc_load
from benchmarks.support.machine import describe_machine
from benchmarks.support.served import logged, logging_to, untrained_bundle

TOKEN = "a-token-for-a-benchmark"
SCRAPE_SECONDS = 1.0
BAR = 0.9


@dataclass(frozen=True)
class Way:
    """A server, and how it is called."""

    name: str
    flags: tuple[str, ...]
    credentials: grpc.ChannelCredentials | None = None
    token: str = ""


@dataclass(frozen=True)
class Target:
    """A server that listens; `metrics` is the address of its metrics, if it has them."""

    way: Way
    address: str
    pid: int
    metrics: str


def ways(folder: Path) -> list[Way]:
    """All off; all but TLS; all."""
    (folder / "tokens").write_text(f"bench {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    observed = ("--tokens", str(folder / "tokens"), "--metrics-port", "0", "--log-format", "json")
    tls = ("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem"))
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    return [
        Way("all off", ("--no-log-calls",)),
        Way("tokens, metrics, logs", observed, token=TOKEN),
        Way("the same and TLS", (*observed, *tls), credentials, TOKEN),
    ]


@contextmanager
def served(way: Way, bundle: Path, folder: Path, precision: str) -> Iterator[Target]:
    """One of the servers."""
    path = folder / f"{way.name}.log"
    with logging_to(path, bundle, *way.flags, "--precision", precision) as process:
        address = logged(process, path, r"listening on ([\d.:]+)")
        metrics = logged(process, path, r"metrics on ([\d.:]+)") if "--metrics-port" in way.flags else ""
        yield Target(way, address, process.pid, metrics)


async def measure(target: Target, streams: int, seconds: float) -> float:
    """Characters a second."""
    scraping = asyncio.create_task(scrape(target.metrics))
    load = await grpc_load(
        target.address, target.pid, streams, seconds, credentials=target.way.credentials, token=target.way.token
    )
    scraping.cancel()
    return load.chars_per_second


async def scrape(metrics: str) -> None:
    """As Prometheus does, and more often."""
    while metrics:
        await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics}/metrics").read())
        await asyncio.sleep(SCRAPE_SECONDS)


def report(speeds: dict[str, list[float]]) -> bool:
    """Prints medians and ratios; returns whether what is required without TLS is reached."""
    names = list(speeds)
    for name in names:
        print(f"{name}: {statistics.median(speeds[name]):,.0f} chars/s")
    means = []
    for name in names[1:]:
        ratios = [on / off for off, on in zip(speeds[names[0]], speeds[name], strict=True)]
        low, high = interval(ratios)
        means.append(statistics.mean(ratios))
        print(f"{name} / {names[0]}, {len(ratios)} rounds: {means[-1]:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    return means[0] >= BAR


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.protected", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each server (%(default)s)")
    parser.add_argument("--streams", type=int, default=64, help="texts at a time (%(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement (%(default)s)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "int8"))
    settings = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        bundle = untrained_bundle(folder / "bundle")
        targets = [stack.enter_context(served(way, bundle, folder, settings.precision)) for way in ways(folder)]
        speeds: dict[str, list[float]] = {target.way.name: [] for target in targets}
        for number in range(settings.rounds):
            for target in targets if number % 2 == 0 else targets[::-1]:
                speed = asyncio.run(measure(target, settings.streams, settings.seconds))
                speeds[target.way.name].append(speed)
            sys.stderr.write(f"round {number + 1}: {[round(values[-1]) for values in speeds.values()]} chars/s\n")
    return 0 if report(speeds) else 1


if __name__ == "__main__":
    sys.exit(main())
