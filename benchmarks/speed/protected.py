"""Measure what protection and observation cost: tokens, metrics and logs, and TLS as well, against none.

One model is served three times; the same readers load the servers in turn, in rounds whose order alternates. Metrics
are scraped every second. Figures are ratios within a round.
"""

import asyncio
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import trustme

from benchmarks.support.load import grpc_load
from benchmarks.support.machine import describe_machine
from benchmarks.support.rounds import measure_in_turn, print_ratios, rounds_parser
from benchmarks.support.servers import ServerProcess, serving, untrained_bundle, write_tokens

TOKEN = "a-token-for-a-benchmark"
SCRAPE_SECONDS = 1.0
BAR = 0.9
Case = tuple[tuple[str, ...], dict[str, Any]]  # a server's flags, and how it is called


def cases(folder: Path) -> dict[str, Case]:
    """Return servers with everything off, with everything but TLS, and with everything."""
    write_tokens(folder / "tokens", bench=TOKEN)
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    observed = ("--tokens", str(folder / "tokens"), "--metrics-port", "0", "--log-format", "json")
    tls = ("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem"))
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    return {
        "all off": (("--no-log-calls",), {}),
        "tokens, metrics, logs": (observed, {"token": TOKEN}),
        "the same and TLS": ((*observed, *tls), {"token": TOKEN, "credentials": credentials}),
    }


def measure(server: ServerProcess, metrics: str, streams: int, seconds: float, call: dict[str, Any]) -> float:
    """Return characters a second. `metrics` is the address of the server's metrics, if it has them."""

    async def run() -> float:
        scraping = asyncio.create_task(scrape(metrics))
        load = await grpc_load(server.address, server.pid, streams, seconds, **call)
        scraping.cancel()
        return load.chars_per_second

    return asyncio.run(run())


async def scrape(metrics: str) -> None:
    """Read metrics as Prometheus does, and more often."""
    while metrics:
        await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics}/metrics").read())
        await asyncio.sleep(SCRAPE_SECONDS)


def main() -> int:
    parser = rounds_parser("speed.protected", __doc__, rounds=10, seconds=6.0)
    parser.add_argument("--streams", type=int, default=64, help="texts at a time (%(default)s)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "int8"))
    settings = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bundle, measures = untrained_bundle(Path(folder, "bundle")), {}
        for name, (flags, call) in cases(Path(folder)).items():
            server = stack.enter_context(serving(bundle, *flags, "--precision", settings.precision))
            metrics = server.wait_for(r"metrics on ([\d.:]+)") if "--metrics-port" in flags else ""
            measures[name] = partial(measure, server, metrics, settings.streams, settings.seconds, call)
        without_tls, _ = print_ratios(measure_in_turn(measures, settings.rounds))
    return 0 if without_tls >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
