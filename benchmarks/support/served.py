"""Parts that benchmarks share: a bundle without training, and a server process."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from bundle.manifest import Precision, TrainingRecord
from bundle.vocabulary import Vocabulary
from bundle.write import write_bundle
from export.build import build
from models.network.char_lm import CharLM, ModelConfig
from models.training.checkpoint import Trained

__all__ = ["Served", "address_of", "flags_of", "logged", "logging_to", "serve", "serving", "untrained_bundle"]

SYMBOLS = "\n" + "".join(map(chr, range(32, 127)))


@dataclass(frozen=True)
class Served:
    """A server process that listens."""

    address: str
    pid: int
    log: str = ""  # until then


def untrained_bundle(
    folder: Path,
    *,
    layers: int = 2,
    hidden: int = 512,
    sharpness: float = 1.0,
    precisions: Sequence[Precision] | None = None,
) -> Path:
    """Exports an LSTM with random weights and 96 characters; returns its folder. `sharpness` multiplies the logits."""
    torch.manual_seed(0)
    model = CharLM(ModelConfig(vocab=len(SYMBOLS), layers=layers, hidden=hidden)).eval()
    with torch.no_grad():
        model.head.weight.mul_(sharpness)
    record = TrainingRecord(data="none", data_sha256="0" * 64, parameters=0, steps=0, seconds=0, validation_nats={})
    write_bundle(folder, *build(Trained(model, Vocabulary(SYMBOLS), "\n", record), folder.name, "1", precisions))
    return folder


def flags_of(**settings: object) -> list[str]:
    """The server's flags for some of its settings."""
    return [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@contextmanager
def serving(models: Path, *flags: str, module: Sequence[str] = ("server",)) -> Iterator[Served]:
    """Runs a server of its own on a free port; `module` with its first arguments is what is run as one."""
    with serve(models, 0, *flags, module=module) as process:
        try:
            address, log = _address_and_log(process)
            yield Served(address, process.pid, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def serve(
    models: Path,
    port: int,
    *flags: str,
    module: Sequence[str] = ("server",),
    checkout: Path | None = None,
    log: IO[str] | None = None,
) -> "subprocess.Popen[str]":
    """Starts a server, with the code of another checkout if one is named; it does not listen yet."""
    command = [sys.executable, "-m", *module, "--models", str(models), "--port", str(port), *flags]
    return subprocess.Popen(command, stderr=log or subprocess.PIPE, text=True, cwd=checkout)


def address_of(process: "subprocess.Popen[str]") -> str:
    """Waits until it listens."""
    return _address_and_log(process)[0]


def _address_and_log(process: "subprocess.Popen[str]") -> tuple[str, str]:
    log = ""
    assert process.stderr
    for line in process.stderr:
        sys.stderr.write(line)
        log += line
        if found := re.search(r"listening on (\S+)", line):
            return found.group(1), log
    raise SystemExit(f"the server ended with exit code {process.wait()}")


@contextmanager
def logging_to(log: Path, models: Path, *flags: str) -> Iterator["subprocess.Popen[str]"]:
    """Runs a server of its own on a free port, whose log goes to a file, as under systemd or in a container."""
    with log.open("w") as file, serve(models, 0, *flags, log=file) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def logged(process: "subprocess.Popen[str]", log: Path, pattern: str) -> str:
    """Waits until the file with its log has the pattern; returns the pattern's group."""
    while process.poll() is None:
        if found := re.search(pattern, log.read_text()):
            return found.group(1)
        time.sleep(0.05)
    raise SystemExit(f"the server ended with exit code {process.wait()}: {log.read_text()}")
