"""A server with a device that is played: once warmed up, its runs take a given time and compute nothing.

    python -m benchmarks.support.played_device MICROSECONDS [FLAG OF THE SERVER ...]

So the host's part of a run can be measured where there is no GPU: see benchmarks/speed/host_part.py.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from server import __main__ as server
from server.runtime import load as loading
from server.runtime.device_runner import Bound, Buffer, DeviceRunner

__all__ = ["play_device"]


class PlayedBound(Bound):
    seconds: float

    def run(self, *, captured: bool) -> None:
        if captured:
            time.sleep(self.seconds)
        else:
            super().run(captured=captured)


@contextmanager
def play_device(step_seconds: float) -> Iterator[None]:
    """Let models that are loaded for a device inside this context take `step_seconds` a step, whatever their rows.

    Runs of the probe are real ones, and have to be right.
    """

    class Played(DeviceRunner):
        def bind(self, full: bool, steps: int, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Bound:
            bound = PlayedBound(self._sessions[full, steps], inputs, outputs, number=-1)
            bound.seconds = steps * step_seconds
            return bound

    real = loading.DeviceRunner
    loading.DeviceRunner = Played  # type: ignore[misc]
    try:
        yield
    finally:
        loading.DeviceRunner = real  # type: ignore[misc]


if __name__ == "__main__":
    with play_device(1e-6 * float(sys.argv[1])):
        sys.exit(server.main(sys.argv[2:]))
