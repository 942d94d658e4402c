"""The commands in this process, as a shell would start them, and what TLS needs."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import pytest

from charstream.__main__ import main


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Charstream = Callable[..., Done]


@pytest.fixture
def charstream(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Charstream:
    """Runs one command; `stdin` is what is piped into it, None for a standard input that is no file."""

    def run(*argv: str, stdin: str | bytes | None = None) -> Done:
        capsys.readouterr()
        if stdin is None:
            return Done(_code(argv), *capsys.readouterr())
        file = tmp_path / "stdin"
        file.write_bytes(stdin.encode() if isinstance(stdin, str) else stdin)
        with open(file, encoding="utf-8") as opened, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", opened)
            return Done(_code(argv), *capsys.readouterr())

    return run


def _code(argv: tuple[str, ...]) -> int:
    try:
        return main(argv)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1


@pytest.fixture(scope="session")
def certificate_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key, and a certificate of 127.0.0.1 that it signs itself."""
    if not which("openssl"):
        pytest.skip("needs the command openssl")
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    files = folder / "key", folder / "certificate"
    subprocess.run([*command, "-keyout", files[0], "-out", files[1]], check=True, capture_output=True)
    return files
