"""Measure the anonymous memory of preparing a large text and of training on it, beside that of a small text.

    python -m benchmarks.speed.big_text [--gigabytes 1]

The text is generated in a temporary folder. Peaks are read from /proc (Linux): pages of mapped files can be given back
at any time and are not counted. Exit code 1 if the large text takes more than 200 MB beyond the small one.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from benchmarks.support.machine import anonymous_megabytes
from charstream.settings import Settings, parse

MOST_MEGABYTES = 200.0
POLL_SECONDS = 0.01
SMALL_BYTES = 1_000_000
WORDS = ("the", "of", "a", "king", "sees", "no", "night", "in", "love,", "crown.", "heart!", "\u2014", "caf\u00e9")
# Windows from all over the text, and little time: the model is small, and few characters validate.
TRAIN = (
    *("--layers", "1", "--hidden", "32", "--embedding", "8", "--steps", "300", "--split", "0.9995,0.0005"),
    *("--precision", "fp32", "--random-offsets"),
)


class BigTextSettings(Settings):
    """Measure the memory that a large text takes."""

    gigabytes: float = Field(1.0, gt=0, description="size of the text")


def write_text(path: Path, size: int) -> None:
    """Write lines of a few words, at least `size` bytes."""
    rng = random.Random(0)
    block = "".join(" ".join(rng.choices(WORDS, k=8)) + "\n" for _ in range(20_000)).encode()
    with path.open("wb") as file:
        for _ in range(-(-size // len(block))):
            file.write(block)


def peak_megabytes(*command: str, folder: Path) -> float:
    """Run a command of charstream; return the most anonymous memory that it was seen to have."""
    environment = {**os.environ, "CHARSTREAM_CACHE": str(folder / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "charstream", *command], env=environment, stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, anonymous_megabytes(process.pid))
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak


def measure(text: Path, folder: Path) -> dict[str, float]:
    """Return the peaks of preparing a text, and of training on it once it is prepared."""
    train = ("train", "--data", str(text), "--out", str(folder / text.stem), *TRAIN)
    found = {}
    for name, command in (("prepare", ("data", str(text))), ("train", train)):
        began = time.monotonic()
        found[name] = peak_megabytes(*command, folder=folder)
        size = text.stat().st_size / 1e6
        print(f"{name:8} {size:8,.1f} MB: {found[name]:5.0f} MB, {time.monotonic() - began:.1f} s", flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(BigTextSettings, argv, command="python -m benchmarks.speed.big_text")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, big = folder / "small.txt", folder / "big.txt"
        write_text(small, SMALL_BYTES)
        write_text(big, int(settings.gigabytes * 1e9))
        least, most = measure(small, folder), measure(big, folder)
    beyond = {name: most[name] - least[name] for name in most}
    print(", ".join(f"{name} {megabytes:+.0f} MB" for name, megabytes in beyond.items()), "for the large text")
    return 0 if max(beyond.values()) < MOST_MEGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
