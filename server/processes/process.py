"""One engine process, as the server sees it: its start, the frames from and to it, and its end."""

import asyncio
import logging
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from socket import SHUT_RDWR, socket, socketpair
from typing import Any

from bundle.read import Bundle
from server.engine.messages import Command, Request
from server.processes.frames import (
    EngineReady,
    FrameReader,
    LoadFailed,
    LoadOrder,
    LogLine,
    Ping,
    TickFrame,
    encode,
    read_frame,
)
from server.runtime.host_runner import CannotRun
from server.settings import ServerSettings

__all__ = ["EngineProcess", "StartedProcess", "describe_exit", "start_process", "stop_all"]

# The module search path is the server's, whatever lies in the working folder.
BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from server.processes.lifetime import end_with_starter; end_with_starter(int(sys.argv[1])); "
    "from server.processes.worker import main; main(int(sys.argv[1]))"
)
# These are sent to whole groups of processes, and are for the server: it drains, and the connection ends then.
GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A process whose connection is closed ends at once; one that does not is killed.
END_SECONDS = 5.0
# One that loads its model and says nothing, not even that it is ready, is killed: others wait for their turn to load.
LOAD_SECONDS = 600.0
# One that loads for nobody any more is killed after this time.
LOOK_SECONDS = 0.2
# A process that is killed while it loads is started this often: callers wait for the model, and it is not to blame.
STARTS = 3

log = logging.getLogger("charstream.engine")


@dataclass(frozen=True)
class StartedProcess:
    """A process whose engine is ready, and the server's end of its connection."""

    process: subprocess.Popen[bytes]
    connection: socket
    ready: EngineReady

    def stop(self) -> None:
        """End the process; from any thread, and as often as one likes."""
        stop_all([self])


def stop_all(started: Sequence[StartedProcess]) -> None:
    """End processes, all at the same time: those that hang don't make the others' end late. From any thread."""
    for one in started:
        with suppress(OSError):
            one.connection.shutdown(SHUT_RDWR)
    end = time.monotonic() + END_SECONDS
    for one in started:
        try:
            one.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()


def start_process(
    bundle: Bundle, settings: ServerSettings, is_wanted: Callable[[], bool] = lambda: True
) -> StartedProcess:
    """Start an engine process, another one if it is killed meanwhile, and wait until its model is loaded.

    Args:
        is_wanted: says whether it still is.

    Raises:
        InterruptedError: it is not wanted any more.
        CannotRun, RuntimeMissing: as `server.runtime.load.load`; CannotRun too if the process ends by itself.
        OSError: each was killed, or one says nothing for too long: that may be another time's trouble, not the model's.
    """
    for _ in range(STARTS - 1):
        try:
            return _start_once(bundle, settings, is_wanted)
        except ChildProcessError as error:
            log.warning("%s; another one is started", error)
    return _start_once(bundle, settings, is_wanted)


def _start_once(bundle: Bundle, settings: ServerSettings, is_wanted: Callable[[], bool]) -> StartedProcess:
    ours, theirs = socketpair()
    with theirs:
        command = [sys.executable, "-c", BOOT, str(theirs.fileno()), *sys.path]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)  # of this thread; the process inherits it
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        return StartedProcess(process, ours, _load(ours, LoadOrder(bundle, settings), is_wanted))
    except BaseException as error:
        ours.close()
        process.kill()
        code = process.wait()
        if isinstance(error, TimeoutError):
            raise TimeoutError(f"the engine process said nothing for {LOAD_SECONDS:g} s and was killed") from None
        if isinstance(error, (EOFError, ConnectionError)):
            raise _early_end(code) from None
        raise


def _early_end(code: int) -> Exception:
    """Return the error of a process that ended, with that exit code, while it loaded the model."""
    message = f"the engine process ended while it loaded the model: {describe_exit(code)}"
    if code == -signal.SIGKILL:
        return ChildProcessError(f"{message}, as the system does where memory is short")
    return CannotRun(message)


def _load(connection: socket, order: LoadOrder, is_wanted: Callable[[], bool]) -> EngineReady:
    connection.settimeout(LOAD_SECONDS)
    connection.sendall(encode(order))
    while True:
        _wait_for_frame(connection, is_wanted)
        match read_frame(connection):
            case LogLine() as line:
                _log(line)
            case LoadFailed(error):
                raise error
            case EngineReady() as ready:
                return ready


def _wait_for_frame(connection: socket, is_wanted: Callable[[], bool]) -> None:
    poll, end = select.poll(), time.monotonic() + LOAD_SECONDS
    poll.register(connection, select.POLLIN)
    while not poll.poll(LOOK_SECONDS * 1000):
        if not is_wanted():
            raise InterruptedError("the model was unloaded while it was loaded once more")
        if time.monotonic() > end:
            raise TimeoutError


def describe_exit(code: int | None) -> str:
    """Return how a process ended, by its exit code as Popen has it."""
    if code is None:
        return "it still runs"
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _log(line: LogLine) -> None:
    logging.getLogger(line.logger).log(line.level, "%s", line.text)


class EngineProcess(asyncio.Protocol):
    """The connection to an engine process. To be used in the event loop.

    Args:
        receive: takes this object and the frame of a tick.
        lost: takes this object, and why the connection is gone; None if nothing was said.
    """

    def __init__(
        self,
        index: int,
        started: StartedProcess,
        receive: Callable[["EngineProcess", TickFrame], None],
        lost: Callable[["EngineProcess", Exception | None], None],
    ) -> None:
        self.index, self.started = index, started
        self._receive, self._lost = receive, lost
        self._loop, self._frames = asyncio.get_running_loop(), FrameReader()
        self._commands = list[Command]()
        self._pings = 0  # since the last sign of life
        self._error: Exception | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def pid(self) -> int:
        return self.started.process.pid

    async def connect(self) -> None:
        await self._loop.create_unix_connection(lambda: self, sock=self.started.connection)

    def submit(self, command: Command) -> None:
        """Send the command, in one frame with those that follow in this turn of the loop; a new text's at once."""
        self._commands.append(command)
        if isinstance(command, Request):
            self._flush()
        elif len(self._commands) == 1:
            self._loop.call_soon(self._flush)

    def ping(self) -> int:
        """Ask for a sign of life; return how often in a row it was asked for one."""
        self._pings += 1
        if self._transport:
            self._transport.write(encode(Ping()))
        return self._pings

    def _flush(self) -> None:
        if not self._transport:
            return  # those of before the connection go with it
        commands, self._commands = self._commands, []
        if commands:
            self._transport.write(encode(commands))

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._pings = 0
        for value in self._frames.feed(data):
            match value:
                case TickFrame():
                    self._receive(self, value)
                case LogLine():
                    _log(value)
                case LoadFailed(error):
                    self._error = error
                case Ping():
                    pass  # any frame is a sign of life

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._lost(self, self._error)
