"""Python programs in processes of their own, forked from one that has imported what they need.

Importing takes a server half a second, and what needs torch two: longer than most programs of the tests run. What a
program does before its imports, and that it imports all that it needs, is not tested by these.
"""

import atexit
import gc
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver, reduction
from pathlib import Path
from typing import IO, Any

__all__ = ["ForkedPython", "ForkingSubprocess", "context", "end_forkserver", "forking_script", "run_forked"]

PRELOADED = (
    *("tests", "server.__main__", "client.commands.stream", "client.commands.score"),
    *("export.__main__", "export.verify", "models.check.command", "models.experiments.search", __name__),
    "torch._dynamo",  # optimisers and exports import it when they begin
)
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([*PRELOADED])  # there is one for all: who sets another list takes these away
# Starts, and looks whether a process has ended, are not safe in several threads.
_lock = threading.Lock()


class ForkedPython:
    """What `subprocess.Popen([sys.executable, *argv])` would be, as far as the tests use it."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        start_new_session: bool = False,
    ) -> None:
        ours: list[int | None] = []
        theirs: list[int] = []
        pipes: list[int] = []
        for number, given in enumerate((stdin, stdout, stderr)):
            if given == subprocess.PIPE:
                ends = os.pipe()
                pipes.append(ends[number > 0])
                ours.append(ends[number == 0])
                theirs.append(pipes[-1])
                continue
            ours.append(None)
            if given == subprocess.DEVNULL:
                pipes.append(os.open(os.devnull, os.O_RDWR))
                theirs.append(pipes[-1])
            elif given == subprocess.STDOUT:
                theirs.append(theirs[1])
            else:
                theirs.append(number if given is None else given if isinstance(given, int) else given.fileno())
        variables, folder = dict(os.environ if env is None else env), str(cwd or Path.cwd())
        arguments = ([*map(str, argv)], variables, folder, start_new_session)
        self._process = context.Process(target=_run, args=(*arguments, [*map(_Descriptor, theirs)]))
        with _lock:
            self._process.start()
        for descriptor in pipes:
            os.close(descriptor)
        self.args = [sys.executable, *argv]
        self.pid = self._process.pid or 0
        self.stdin, self.stdout, self.stderr = (
            None if end is None else open(end, mode, encoding="utf-8")  # noqa: SIM115
            for end, mode in zip(ours, ("w", "r", "r"), strict=True)
        )

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        with _lock:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        code = self.poll()
        if code is None and connection.wait([self._process.sentinel], timeout):
            code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "ForkedPython":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.stdin, self.stdout, self.stderr):
            if file:
                file.close()
        self.wait()


def run_forked(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 120
) -> "subprocess.CompletedProcess[str]":
    """What `subprocess.run([sys.executable, *argv], capture_output=True, text=True)` would be."""
    pipe = subprocess.PIPE
    process = ForkedPython(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=env, cwd=cwd)
    read: dict[int, str] = {}
    files = (process.stdout, process.stderr)
    threads = [threading.Thread(target=_drain, args=(file, read, number)) for number, file in enumerate(files)]
    for thread in threads:
        thread.start()
    try:
        code = process.wait(timeout)
    finally:
        process.kill()
        for thread in threads:
            thread.join()
    return subprocess.CompletedProcess(process.args, code, read[0], read[1])


def _drain(file: IO[str], read: dict[int, str], number: int) -> None:
    with file:
        read[number] = file.read()


class ForkingSubprocess:
    """The module `subprocess`, for a module whose Python programs are to be forked."""

    @staticmethod
    def Popen(command: Sequence[str], **options: Any) -> "ForkedPython | subprocess.Popen[Any]":
        if command[0] == sys.executable:
            return ForkedPython(command[1:], **options)
        return subprocess.Popen(command, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


def end_forkserver() -> None:
    """Wait for the process from which the others are forked: else nobody would count its and their time."""
    forkserver._forkserver._stop()


class _Descriptor:
    """A file descriptor on its way to the new process."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _detach, (reduction.DupFd(self._number),)


def _detach(sent: Any) -> int:
    return sent.detach()


def _run(argv: list[str], variables: dict[str, str], folder: str, in_own_session: bool, descriptors: list[int]) -> None:
    gc.freeze()  # else the first collection touches, and so copies, all that was imported
    gc.enable()
    if in_own_session:
        os.setsid()
    # What it forks comes from the same process as itself; Python would begin another one.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    for descriptor in set(descriptors):
        os.close(descriptor)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = [path for path in variables.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", *sys.path)]
    try:
        _run_program(*argv)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out; logging writes its last lines in one


def _run_program(kind: str, *rest: str) -> None:
    """Do as `python KIND REST...`, where KIND is -m, -c or a file."""
    if kind == "-m":
        sys.argv = [*rest]
        sys.modules.pop(f"{rest[0]}.__main__", None)  # it is to run, however often it was imported
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")


CLIENT = """#!{python} -ISE
import json, os, signal, socket, sys

where = socket.socket(socket.AF_UNIX)
where.connect({path!r})
said = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
socket.send_fds(where, [len(said).to_bytes(8, "big")], [0, 1, 2])
where.sendall(said)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: where.send(bytes([number])))
sys.exit(where.recv(1)[0])
"""


@contextmanager
def forking_script(path: Path, *argv: str) -> Iterator[None]:
    """Write a program that is `python ARGV...` with the arguments it is given, forked with its imports done.

    It takes its own standard streams, variables and folder along, and hands on the signals that end a program.
    """
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path.with_suffix(".socket")))
        listening.listen()
        path.write_text(CLIENT.format(python=sys.executable, path=str(path.with_suffix(".socket"))))
        path.chmod(0o755)
        threading.Thread(target=_accept, args=(listening, argv), daemon=True).start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket, argv: Sequence[str]) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:  # it is no longer listened to
            return
        threading.Thread(target=_serve, args=(connection, argv), daemon=True).start()


def _serve(client: socket.socket, argv: Sequence[str]) -> None:
    """Run what a script asks for; its end, by a signal too, ends the process."""
    with client:
        length, descriptors, _, _ = socket.recv_fds(client, 8, 3)
        arguments, variables, folder = json.loads(client.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
        stdin, stdout, stderr = (os.fdopen(descriptor, "rb") for descriptor in descriptors)
        with stdin, stdout, stderr:
            words = [*argv, *arguments]
            process = ForkedPython(words, stdin=stdin, stdout=stdout, stderr=stderr, env=variables, cwd=Path(folder))
        hands_on = threading.Thread(target=_hand_on, args=(client, process), daemon=True)
        hands_on.start()
        code = process.wait()
        with suppress(OSError):
            client.sendall(bytes([code % 256]))


def _hand_on(client: socket.socket, process: ForkedPython) -> None:
    """Send the process the signals that its script received; kill it once nobody waits for it."""
    with suppress(OSError):
        while number := client.recv(1):
            process.send_signal(number[0])
        process.kill()
