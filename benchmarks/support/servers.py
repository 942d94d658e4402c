"""Bundles without training, and servers in processes of their own."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from bundle.manifest import Precision, TrainingRecord
from bundle.vocabulary import Vocabulary
from bundle.write import write_bundle

__all__ = ["ServerProcess", "flags_of", "given_or_untrained", "serving", "untrained_bundle", "write_tokens"]

SYMBOLS = "\n" + "".join(map(chr, range(32, 127)))


def untrained_bundle(
    folder: Path,
    *,
    layers: int = 2,
    hidden: int = 512,
    sharpness: float = 1.0,
    precisions: Sequence[Precision] | None = None,
    name: str = "",
    version: str = "1",
) -> Path:
    """Export an LSTM with random weights and 96 characters; return its folder. `sharpness` multiplies the logits."""
    # Not above: processes whose memory is measured have no torch.
    import torch

    from export.build import build
    from models.network.char_lm import CharLM, ModelConfig
    from models.training.checkpoint import Trained

    torch.manual_seed(0)
    model = CharLM(ModelConfig(vocab=len(SYMBOLS), layers=layers, hidden=hidden)).eval()
    with torch.no_grad():
        model.head.weight.mul_(sharpness)
    record = TrainingRecord(data="none", data_sha256="0" * 64, parameters=0, steps=0, seconds=0, validation_nats={})
    trained = Trained(model, Vocabulary(SYMBOLS), "\n", record)
    write_bundle(folder, *build(trained, name or folder.name, version, precisions))
    return folder


@contextmanager
def given_or_untrained(
    bundle: Path | None, *, hidden: int = 512, precisions: Sequence[Precision] | None = None
) -> Iterator[Path]:
    """Yield the bundle that was given, or else a temporary one of an LSTM of two layers."""
    with tempfile.TemporaryDirectory() as folder:
        yield bundle or untrained_bundle(Path(folder) / f"lstm-2x{hidden}", hidden=hidden, precisions=precisions)


def flags_of(**settings: object) -> list[str]:
    """Return the server's flags for some of its settings."""
    return [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def write_tokens(file: Path, **tokens: str) -> None:
    """Write a file for --tokens, by identity."""
    file.write_text("".join(f"{name} {hashlib.sha256(token.encode()).hexdigest()}\n" for name, token in tokens.items()))


class ServerProcess:
    """A process that says where it listens, whose log goes to a file, as under systemd or in a container."""

    def __init__(self, command: Sequence[str], checkout: Path | None = None) -> None:
        """Start it, with the code of another checkout if one is named, and wait until it listens."""
        environment = os.environ | ({"PYTHONPATH": str(checkout)} if checkout else {})
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name, "log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stderr=log, cwd=checkout, env=environment)
        self.pid = self._process.pid
        try:
            self.address = self.wait_for(r'listening on ([\w.:[\]-]+)["\s]')
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    @property
    def log(self) -> str:
        """Everything that it has written so far."""
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: str) -> str:
        """Wait until the log has the pattern; return its group. Raises SystemExit if the process ends before."""
        while not (found := re.search(pattern, self.log)):
            if self._process.poll() is not None:
                raise SystemExit(f"the server ended with exit code {self._process.returncode}: {self.log}")
            time.sleep(0.02)
        return found.group(1)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float | None = None) -> int:
        """Send a signal and return the exit code. After `seconds` the process is killed."""
        self._process.send_signal(number)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.poll() is None:
            self.stop()
        self._folder.cleanup()


def serving(
    models: Path, *flags: str, port: int = 0, module: Sequence[str] = ("server",), checkout: Path | None = None
) -> ServerProcess:
    """Start a server; `module` with its first arguments is what is run as one."""
    command = (sys.executable, "-m", *module, "--models", str(models), "--port", str(port), *flags)
    return ServerProcess(command, checkout)
