"""A server whose engine processes compute nothing: each sends constant text for all its texts, at a fixed pace.

    python -m benchmarks.support.played_engine MICROSECONDS [FLAG OF THE SERVER ...]

A step takes MICROSECONDS, whatever the rows. So it shows what the server's own process can deliver: see
benchmarks/processes/front.py. With the variable PLAYED_PROFILE the server writes there, at its end, where its event
loop's time went.
"""

import cProfile
import os
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

from server import __main__ as server
from server.engine.engine import CommandSource
from server.engine.messages import Cancel, Finish, Grant, Handled, Output, Reason, Request
from server.processes import process, worker
from server.settings import ServerSettings

__all__ = ["PlayedEngine", "work"]

BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; from benchmarks.support.played_engine import work; "
    "work(int(sys.argv[1]), {step_seconds})"
)
MAX_STEPS = 64  # of a run, as the engine has it
TOP = 25  # functions of a profile


class PlayedText:
    """A text: how much of it is left, how much may be sent before its reader takes more, and when it was submitted."""

    def __init__(self, request: Request) -> None:
        self.left, self.credit, self.chars = request.max_chars, request.window, request.max_chars
        self.began = time.monotonic()

    def take(self, most: int) -> int:
        count = min(most, self.left, self.credit)
        self.left, self.credit = self.left - count, self.credit - count
        return count


class PlayedEngine:
    """Stands for `server.engine.engine.Engine` in an engine process."""

    step_seconds = 0.001

    def __init__(
        self,
        *_: object,
        chunk_delay: float,
        deliver: Callable[[list[Output]], None],
        commands: CommandSource,
        **__: object,
    ) -> None:
        self._period, self._deliver, self._commands = chunk_delay, deliver, commands
        self._texts: dict[int, PlayedText] = {}
        self._unhandled = 0

    def queue_head(self, most: int) -> list[int]:
        return []

    def warm_up(self) -> None: ...

    def run(self) -> None:
        due, last = time.monotonic(), time.monotonic()
        while True:
            self._take_commands()
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)
                continue
            # What the event loop has not handled yet makes the next messages longer, as an engine's.
            steps = min(MAX_STEPS, max(1, round((now - last) / self.step_seconds)))
            due = now + self._period
            if self._unhandled == 0 and self._texts:
                last = now
                self._send(steps)

    def _take_commands(self) -> None:
        while True:
            try:
                command = self._commands.get(block=not self._texts)
            except Empty:
                return
            match command:
                case Request():
                    self._texts[command.stream] = PlayedText(command)
                case Grant(stream, chars) if stream in self._texts:
                    self._texts[stream].credit += chars
                case Cancel(stream):
                    self._texts.pop(stream, None)
                case Handled(ticks, _):
                    self._unhandled -= ticks

    def _send(self, steps: int) -> None:
        outputs = []
        for stream, text in list(self._texts.items()):
            count = text.take(steps)
            if not text.left:
                del self._texts[stream]
                outputs.append(Output(stream, "x" * count, self._finish(text)))
            elif count:
                outputs.append(Output(stream, "x" * count, None))
        if outputs:
            self._unhandled += 1
            self._deliver(outputs)

    def _finish(self, text: PlayedText) -> Finish:
        seconds = time.monotonic() - text.began
        return Finish(Reason.LENGTH, "", 0, text.chars, text.chars, 0.0, min(self._period, seconds), seconds)


def work(descriptor: int, step_seconds: float) -> None:
    """Be an engine process whose engine is played; the model is loaded, and its probe run, as always."""
    PlayedEngine.step_seconds = step_seconds
    played: Any = PlayedEngine
    worker.Engine = played  # type: ignore[misc]
    worker.main(descriptor)


def main(step_seconds: float, flags: list[str]) -> int:
    """Run the server."""
    process.BOOT = BOOT.format(step_seconds=step_seconds)
    file, serve = os.environ.get("PLAYED_PROFILE"), server._serve

    async def serve_profiled(settings: ServerSettings) -> int:
        profile = cProfile.Profile()
        profile.enable()
        try:
            return await serve(settings)
        finally:
            profile.disable()
            with Path(file or os.devnull).open("w") as out:
                pstats.Stats(profile, stream=out).sort_stats("tottime").print_stats(TOP)

    if file:
        server._serve = serve_profiled
    return server.main(flags)


if __name__ == "__main__":
    sys.exit(main(1e-6 * float(sys.argv[1]), sys.argv[2:]))
