"""Compare plain generation over gRPC between two checkouts: is this one as fast as the other?

    python -m benchmarks.speed.compare OTHER

Both serve one bundle, an untrained LSTM 2x512 that is exported here; the same readers load one server, then the other,
in pairs whose order alternates. Figures are ratios within a pair.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from benchmarks.support.load import grpc_load
from benchmarks.support.machine import describe_machine
from benchmarks.support.rounds import measure_in_turn, print_ratios
from benchmarks.support.servers import ServerProcess, given_or_untrained, serving

HERE = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.compare", description=__doc__)
    parser.add_argument("other", type=Path, help="a checkout to compare with")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of measurements (%(default)s)")
    parser.add_argument("--streams", type=int, default=64, help="texts at a time (%(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="duration of each measurement (%(default)s)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "int8"))
    settings = parser.parse_args()
    flags = ("--precision", settings.precision, "--threads", "1")

    def measure(server: ServerProcess) -> float:
        return asyncio.run(grpc_load(server.address, server.pid, settings.streams, settings.seconds)).chars_per_second

    with (
        given_or_untrained(None) as bundle,
        serving(bundle, *flags, checkout=settings.other.resolve()) as before,
        serving(bundle, *flags, checkout=HERE) as after,
    ):
        cases = {"before": lambda: measure(before), "after": lambda: measure(after)}
        speeds = measure_in_turn(cases, settings.pairs)
    print(f"{describe_machine()}; {settings.precision}, {settings.streams} streams")
    print_ratios(speeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
