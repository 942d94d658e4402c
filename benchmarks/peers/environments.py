"""An environment for each peer, with the versions that are locked in `requirements/`."""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["CLIENT", "REQUIREMENTS", "EnvironmentFailed", "prepare", "python_of", "versions"]

REQUIREMENTS = Path(__file__).parent / "requirements"
CLIENT = "client"  # the environment of the readers
SECONDS = 900  # that one installation may take


class EnvironmentFailed(RuntimeError):
    """A peer could not be installed; the message is one line."""


def python_of(folder: Path, environment: str) -> Path:
    """Return the interpreter of an environment; "" is the one that runs this."""
    return (folder / environment / "bin" / "python").absolute() if environment else Path(sys.executable)


def prepare(folder: Path, environment: str) -> None:
    """Install an environment unless it is there with these versions. Raises EnvironmentFailed."""
    requirements = REQUIREMENTS / f"{environment}.txt"
    expected = hashlib.sha256(requirements.read_bytes()).hexdigest()
    ready = folder / environment / "ready"
    if ready.exists() and ready.read_text() == expected:
        return
    venv.create(folder / environment, clear=True, with_pip=True)
    flags = ("--quiet", "--disable-pip-version-check", "-r", str(requirements))
    command = [str(python_of(folder, environment)), "-m", "pip", "install", *flags]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise EnvironmentFailed(f"its installation took more than {SECONDS} s") from None
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise EnvironmentFailed(errors[0].removeprefix("ERROR: "))
    ready.write_text(expected)


def versions(environment: str) -> dict[str, str]:
    """Return the locked versions, by name."""
    lines = (REQUIREMENTS / f"{environment}.txt").read_text().splitlines()
    pairs = (line.split("==", 1) for line in lines if "==" in line)
    return dict(pairs)
