"""What lies in the folder of bundles, as far as manifests and the sizes of files tell."""

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from bundle.manifest import Manifest
from bundle.read import MANIFEST, BundleError, read_manifest

__all__ = ["Content", "Found", "Look", "Reports", "look_at", "version_order"]

log = logging.getLogger("charstream.models")

# Name, size, time of change in ns and inode of each file in a folder: equal if nothing was written there.
Content = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Found:
    """A bundle that has a manifest, and files of the sizes that it says. `digest`: sha256 of the manifest's file."""

    folder: Path
    content: Content
    manifest: Manifest
    digest: str

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.manifest.name, self.manifest.version

    def __str__(self) -> str:
        return f"{self.manifest.name} {self.manifest.version}"


@dataclass(frozen=True)
class Look:
    """All that lies there, by path.

    Attributes:
        broken: content of what is no bundle that can be used, None if it cannot be read, and why.
    """

    found: list[Found] = field(default_factory=list)
    broken: dict[Path, tuple[Content | None, str]] = field(default_factory=dict)


class Reports:
    """Why folders are not served. Each reason is logged once for one content of its folder."""

    def __init__(self) -> None:
        self._reasons: dict[Path, tuple[Content | None, str]] = {}

    @property
    def reasons(self) -> dict[Path, str]:
        return {folder: reason for folder, (_, reason) in self._reasons.items()}

    def add(self, folder: Path, content: Content | None, reason: str) -> bool:
        """Returns whether that is new."""
        new = self._reasons.get(folder) != (content, reason)
        if new:
            log.error("not served: %s", reason)
        self._reasons[folder] = content, reason
        return new

    def has(self, found: Found) -> bool:
        """Whether that content of the folder was reported."""
        return found.folder in self._reasons and self._reasons[found.folder][0] == found.content

    def keep(self, folders: set[Path]) -> None:
        """Forgets the others."""
        self._reasons = {folder: reason for folder, reason in self._reasons.items() if folder in folders}


def look_at(folder: Path) -> Look:
    """A bundle, or folders of which each is one or holds several. Raises OSError if the folder cannot be read."""
    look = Look()
    for place in _places(folder):
        content = None
        try:
            content = _content(place)
            manifest, digest = read_manifest(place)
            _check_sizes(place, manifest, content)
        except BundleError as error:
            look.broken[place] = content, str(error)
        except OSError as error:
            look.broken[place] = content, f"{place}: {error.strerror}"
        else:
            look.found.append(Found(place, content, manifest, digest))
    return look


def version_order(version: str) -> tuple[list[str | int], str]:
    """Sorts as people do: 10 after 9."""
    parts = re.split(r"([0-9]+)", version)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], version


def _places(folder: Path) -> list[Path]:
    if (folder / MANIFEST).exists():
        return [folder]
    return [place for child in _folders(folder) for place in _versions(child)]


def _versions(folder: Path) -> list[Path]:
    """The folder itself, unless bundles lie in it."""
    try:
        inside = [] if (folder / MANIFEST).exists() else _folders(folder)
        return inside if any((path / MANIFEST).exists() for path in inside) else [folder]
    except OSError:
        return [folder]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _content(folder: Path) -> Content:
    with os.scandir(folder) as entries:
        stats = [(entry.name, entry.stat()) for entry in entries]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats))


def _check_sizes(folder: Path, manifest: Manifest, content: Content) -> None:
    """Raises BundleError: a file is not there, or not whole yet."""
    sizes = {name: size for name, size, _, _ in content}
    for name, record in manifest.files.items():
        if name not in sizes:
            raise BundleError(f"{folder / name}: is missing")
        if sizes[name] != record.bytes:
            raise BundleError(f"{folder / name}: {sizes[name]} bytes, the manifest says {record.bytes}")
