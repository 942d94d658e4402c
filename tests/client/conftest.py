"""A certificate for TLS."""

import subprocess
from pathlib import Path
from shutil import which

import pytest


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
