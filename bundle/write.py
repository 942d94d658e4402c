"""Write a bundle completely or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from bundle.curve import CURVE
from bundle.manifest import FileRecord, Manifest, sha256
from bundle.read import CARD, MANIFEST, BundleError

__all__ = ["check_replaceable", "copy_bundle", "file_records", "write_bundle"]


def file_records(files: dict[str, bytes]) -> dict[str, FileRecord]:
    """Return the manifest's record of each file."""
    return {name: FileRecord(sha256=sha256(data), bytes=len(data)) for name, data in sorted(files.items())}


def check_replaceable(folder: Path) -> None:
    """Raise BundleError if the folder cannot be made, or holds anything but a bundle, which would be lost."""
    place = next(parent for parent in folder.absolute().parents if parent.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise BundleError(f"{folder}: {place} cannot be written")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BundleError(f"{folder} is a file, not a bundle; it is not replaced")
    for path in folder.iterdir():
        if path.name not in (MANIFEST, CARD, CURVE) and path.suffix != ".onnx":
            raise BundleError(f"{folder} holds {path.name}, which is no part of a bundle; it is not replaced")


def write_bundle(folder: Path, manifest: Manifest, files: dict[str, bytes]) -> None:
    """Write `files` and the manifest into a new folder, which then replaces `folder`.

    A reader finds the old bundle, the new one, or for a moment none; never a mixture. Raises BundleError if the folder
    holds something else.
    """

    def write(new: Path) -> None:
        for name, data in files.items():
            _write(new / name, data)
        _write(new / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())

    _make(folder, write)


def copy_bundle(source: Path, folder: Path) -> None:
    """Copy the files of a bundle byte for byte, as `write_bundle` writes them: it keeps its digest."""

    def write(new: Path) -> None:
        for file in sorted(source.iterdir(), key=lambda file: file.name == MANIFEST):
            _write(new / file.name, file.read_bytes())

    _make(folder, write)


def _make(folder: Path, write: Callable[[Path], None]) -> None:
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(new)
        new.chmod(0o755)
        _replace_folder(folder, new)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace_folder(folder: Path, new: Path) -> None:
    if not folder.exists():
        new.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    folder.rename(old / folder.name)
    try:
        new.rename(folder)
    except OSError:
        (old / folder.name).rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
