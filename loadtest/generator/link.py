"""Locust's side of a generator: starts its process, sends commands, and takes what it measured. For gevent."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from gevent.lock import RLock  # type: ignore[import-untyped]

from loadtest.generator.config import GeneratorConfig

__all__ = ["GeneratorLink", "GeneratorLost"]

ROOT = Path(__file__).parents[2]


class GeneratorLost(Exception):
    """The process ended; its own words are on stderr."""


class GeneratorLink:
    """A generator that runs beside this process, from when it is made; `wait` returns when it is ready.

    Raises:
        GeneratorLost: so does every method.
    """

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        # -P: the working folder may have a client.py of its own.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "loadtest.generator.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "GRPC_VERBOSITY": "NONE"},
        )
        self._turn = RLock()
        self.is_configured = self._is_ready = False

    def wait(self) -> None:
        """Wait until the process is ready. Several greenlets may."""
        with self._turn:
            if not self._is_ready:
                self._read()
            self._is_ready = True

    def configure(self, config: GeneratorConfig) -> None:
        """Tell it its part of a load, which begins now, or when it is ready."""
        self.wait()
        self._write(config.model_dump_json())
        self.is_configured = True

    def send(self, command: str, **facts: int) -> None:
        with self._turn:
            self._write(json.dumps({"do": command, **facts}))

    def collect(self) -> dict[str, Any]:
        """Return what was measured since the last time."""
        with self._turn:
            self._write(json.dumps({"do": "collect"}))
            found: dict[str, Any] = self._read()
        return found

    def close(self) -> None:
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def _write(self, line: str) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise GeneratorLost(self._reason()) from None

    def _read(self) -> Any:
        assert self._process.stdout
        if not (line := self._process.stdout.readline()):
            raise GeneratorLost(self._reason())
        return json.loads(line)

    def _reason(self) -> str:
        return f"the process that makes the load ended with exit code {self._process.wait()}"
