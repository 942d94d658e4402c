"""Plain generation over gRPC from two checkouts: is this one as fast as the other?

Each checkout exports an untrained LSTM 2x512 and serves it; the same readers load one server, then the other, in pairs
whose order alternates. Figures are ratios within a pair.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.support.load import grpc_load
from benchmarks.support.served import Served, address_of, serve

RESAMPLES = 10_000
EXPORT = (
    "import sys; from pathlib import Path; from benchmarks.served import untrained_bundle; "
    "untrained_bundle(Path(sys.argv[1]))"
)


@contextmanager
def served(checkout: Path, folder: Path, precision: str) -> Iterator[Served]:
    """A server of the checkout's code, with a bundle that it exported."""
    bundle = folder / "bundle"
    subprocess.run([sys.executable, "-c", EXPORT, str(bundle)], cwd=checkout, check=True)
    flags = ("--precision", precision, "--threads", "1")
    with serve(bundle, 0, *flags, checkout=checkout) as process:
        try:
            yield Served(address_of(process), process.pid)
        finally:
            process.terminate()
            process.communicate()


def interval(ratios: list[float]) -> tuple[float, float]:
    """Of the mean ratio, 95 %, by the bootstrap."""
    rng = np.random.default_rng(0)
    means = rng.choice(ratios, (RESAMPLES, len(ratios))).mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.compare", description=__doc__)
    parser.add_argument("other", type=Path, help="a checkout to compare with")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of measurements (%(default)s)")
    parser.add_argument("--streams", type=int, default=64, help="texts at a time (%(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement (%(default)s)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "int8"))
    settings = parser.parse_args()
    here = Path(__file__).parents[2]
    speeds: dict[str, list[float]] = {"before": [], "after": []}
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as two,
        served(settings.other, Path(one), settings.precision) as before,
        served(here, Path(two), settings.precision) as after,
    ):
        for pair in range(settings.pairs):
            turns = [("before", before), ("after", after)]
            for name, server in turns if pair % 2 == 0 else turns[::-1]:
                load = asyncio.run(grpc_load(server.address, server.pid, settings.streams, settings.seconds))
                speeds[name].append(load.chars_per_second)
            sys.stderr.write(f"pair {pair + 1}: {speeds['before'][-1]:,.0f}, {speeds['after'][-1]:,.0f} chars/s\n")
    ratios = [b / a for a, b in zip(speeds["before"], speeds["after"], strict=True)]
    low, high = interval(ratios)
    medians = [statistics.median(values) for values in speeds.values()]
    print(
        f"{settings.precision}, {settings.streams} streams: before {medians[0]:,.0f}, after {medians[1]:,.0f} chars/s"
    )
    print(
        f"after / before in {len(ratios)} pairs: {statistics.mean(ratios):.3f}, 95 % interval {low:.3f} to {high:.3f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
