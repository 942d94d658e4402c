"""What the fake device counted, and a server that takes its zeros."""

import ctypes
import tempfile
from contextlib import suppress
from pathlib import Path

import server.runtime.probe
from server.runtime.comparison import Comparison
from server.runtime.host_runner import CannotRun

__all__ = ["Check", "accept_zeros", "counts", "device", "reset"]

VIOLATION = "VIOLATION during capture: "


class Check:
    """Says what is as designed, and what is not."""

    def __init__(self) -> None:
        self.failed = 0

    def that(self, is_so: object, what: str, found: object = "") -> None:
        self.failed += not is_so
        print(f"{'  ' if is_so else 'NO'} {what}{'' if is_so else f': {found}'}", flush=True)

    def nothing(self, found: dict[str, int], begin: str, what: str) -> None:
        """Check that nothing was counted whose name begins so."""
        wrong = {name: count for name, count in found.items() if name.startswith(begin)}
        self.that(not wrong, what, wrong)

    @property
    def exit_code(self) -> int:
        return 1 if self.failed else 0


def device() -> ctypes.CDLL:
    """Return the library that all fake ones share, once onnxruntime has loaded them."""
    library = ctypes.CDLL("libfakecuda.so")
    library.fake_device_bytes.restype = ctypes.c_size_t
    return library


def counts() -> dict[str, int]:
    """Return how often each thing happened since the last reset."""
    with tempfile.NamedTemporaryFile() as file:
        device().fake_dump(file.name.encode())
        lines = Path(file.name).read_text().splitlines()
    return {what: int(count) for count, what in (line.split("\t") for line in lines)}


def reset() -> None:
    device().fake_reset()


def accept_zeros() -> None:
    """Let the probe run, and take what it finds: a device that computes nothing is refused otherwise."""

    def taking(check: object) -> object:
        def run(*arguments: object) -> None:
            with suppress(CannotRun):
                check(*arguments)  # type: ignore[operator]

        return run

    for name in ("check", "check_outcomes"):
        setattr(Comparison, name, taking(getattr(Comparison, name)))
    server.runtime.probe._compare = taking(server.runtime.probe._compare)  # type: ignore[assignment]
