"""A peer's processes: started, spoken to, counted and ended."""

import os
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["ROOT", "busy_seconds", "family", "free_port", "running", "tree_seconds"]

ROOT = Path(__file__).parents[2]
GRACE_SECONDS = 10.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(command: Sequence[str], log: Path, bundle: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a peer, whose log goes to a file; at the end it and all that it started is ended."""
    # Peers report how they are used unless they are told not to.
    quiet = {"BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1"}
    # Triton's Python is linked to a libpython: it has to be this interpreter's. Its store in shared memory costs some
    # calls between processes for each tensor: without it small messages were several times as many.
    library = {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")), "PYTRITON_NO_TENSORSTORE": "1"}
    own = {"PYTHONPATH": str(ROOT), "PEER_BUNDLE": str(bundle), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    environment = os.environ | quiet | library | own
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with log.open("wb") as file:
        if "servers.torch_sampling" not in " ".join(command):
            pipes = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
        process = subprocess.Popen(command, **pipes, env=environment, cwd=ROOT, text=True)  # type: ignore[call-overload]
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    started = family(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    end = time.monotonic() + 2
    while (left := [pid for pid in started if _is_alive(pid, started[pid])]) and time.monotonic() < end:
        time.sleep(0.1)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def family(pid: int) -> dict[int, str]:
    """Return a process and its descendants: when each began, by pid."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = (int(fields[1]), fields[19])
    found = {pid: parents[pid][1]} if pid in parents else {}
    while new := {child: began for child, (parent, began) in parents.items() if parent in found and child not in found}:
        found |= new
    return found


def _is_alive(pid: int, began: str) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[19] == began and fields[0] != "Z"


def tree_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its living descendants."""
    tick, total = os.sysconf("SC_CLK_TCK"), 0.0
    for member in family(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / tick
    return total


def busy_seconds() -> float:
    """Return the CPU seconds that all processes of the machine have used, and what its host took."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _idle, _wait, irq, soft, steal, *_ = map(int, line.split()[1:])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
