"""Finds the bundles in the folder of models, by their manifests and the sizes of their files."""

import logging
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from bundle.manifest import Manifest
from bundle.read import MANIFEST, Bundle, BundleError, read_bundle, read_manifest

__all__ = ["Content", "Found", "Look", "Reports", "Unsettled", "look_at", "read_found", "version_order"]

log = logging.getLogger("charstream.models")

# Name, size, inode and times of change in ns (data; data, owner or mode) of each file in a folder: equal if nothing
# changed there.
Content = tuple[tuple[str, int, int, int, int], ...]

SYSTEM_FOLDER = "lost+found"  # file systems have it at their top, and only root may look into it


class Unsettled(BundleError):
    """There is no verdict on the bundle: it could not be read, or was changed meanwhile."""


@dataclass(frozen=True)
class Found:
    """A bundle with a manifest, and files of the sizes that it says. `digest`: sha256 of the manifest's file."""

    folder: Path
    content: Content
    manifest: Manifest
    digest: str

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.manifest.name, self.manifest.version

    @property
    def modified_at(self) -> int:
        """The time at which its manifest was written, in ns since 1970."""
        return next(changed for name, _, _, changed, _ in self.content if name == MANIFEST)

    def __str__(self) -> str:
        return f"{self.manifest.name} {self.manifest.version}"


@dataclass(frozen=True)
class Look:
    """The bundles of the folder, and the places that hold none.

    Attributes:
        broken: by folder, the content of what is no usable bundle, None if it cannot be read; and the reason.
    """

    found: list[Found] = field(default_factory=list)
    broken: dict[Path, tuple[Content | None, str]] = field(default_factory=dict)


class Reports:
    """Why folders are not served. Each reason is logged once for one content of its folder.

    Args:
        on_new: is called when a reason is logged.
    """

    def __init__(self, on_new: Callable[[], None] = lambda: None) -> None:
        self._on_new = on_new
        self._reasons: dict[Path, tuple[Content | None, str]] = {}
        self._verdicts = set[Path]()

    def add(self, folder: Path, content: Content | None, reason: str, *, is_verdict: bool = False) -> None:
        """Note a reason, and log it if it is new.

        Args:
            content: None where the reason is looked for at each look.
            is_verdict: whether trying again would come to the same.
        """
        if self._reasons.get(folder) != (content, reason):
            log.error("not served: %s", reason)
            self._on_new()
        self._reasons[folder] = content, reason
        (self._verdicts.add if is_verdict else self._verdicts.discard)(folder)

    def remove(self, folder: Path) -> None:
        self._reasons.pop(folder, None)
        self._verdicts.discard(folder)

    def has(self, found: Found) -> bool:
        """Return whether that content of the folder was reported."""
        return found.folder in self._reasons and self._reasons[found.folder][0] == found.content

    def settles(self, found: Found) -> bool:
        """Return whether trying that content again would be in vain."""
        return self.has(found) and found.folder in self._verdicts

    def reconsider(self) -> None:
        """Allow all to be tried again; reasons that were logged are not logged again."""
        self._verdicts.clear()

    def keep(self, folders: set[Path]) -> None:
        """Forget all other folders."""
        self._reasons = {folder: reason for folder, reason in self._reasons.items() if folder in folders}
        self._verdicts &= folders


def look_at(folder: Path, before: Look) -> Look:
    """Return the bundles of a folder, which is one itself, or has folders that each are one, hold several, or both.

    Raises OSError if the folder cannot be read.

    Args:
        before: the last look; bundles that have not changed since are not read again.
    """
    look, known = Look(), {found.folder: found for found in before.found}
    tops = [folder] if (folder / MANIFEST).exists() else _folders(folder)
    for place in chain.from_iterable(map(_version_folders, tops)):
        content = None
        try:
            content = _content(place)
            same = place in known and known[place].content == content
            if content:  # an empty folder is nothing yet
                look.found.append(known[place] if same else _read(place, content))
        except BundleError as error:
            look.broken[place] = content, str(error)
        except OSError as error:
            look.broken[place] = content, f"{place}: {error.strerror}"
    return look


def read_found(found: Found) -> Bundle:
    """Read a bundle whole. Raises BundleError; Unsettled if that is no verdict on the bundle."""
    try:
        bundle = read_bundle(found.folder)
    except BundleError as error:
        if isinstance(error.__context__, OSError) or _has_changed(found):
            raise Unsettled(str(error)) from error
        raise
    if bundle.digest != found.digest:
        raise Unsettled(f"{found.folder}: was changed while it was read")
    return bundle


def version_order(version: str) -> tuple[list[str | int], str]:
    """Return a key that sorts versions as people do: 10 after 9."""
    parts = re.split(r"([0-9]+)", version)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], version


def _version_folders(folder: Path) -> list[Path]:
    """Return the folder if it has a bundle, and those of bundles in it; the folder itself if there are none."""
    try:
        inside = _folders(folder)
        if _has_manifest(folder):
            return [folder, *filter(_has_manifest, inside)]
        return inside if any(map(_has_manifest, inside)) else [folder]
    except OSError:
        return [folder]


def _has_manifest(folder: Path) -> bool:
    return _may_be(folder / MANIFEST, lambda mode: True)


def _folders(folder: Path) -> list[Path]:
    """Return the folders in it by name, hidden ones left out. Raises OSError."""
    names = (path for path in folder.iterdir() if not path.name.startswith(".") and path.name != SYSTEM_FOLDER)
    return sorted(path for path in names if _may_be(path, stat.S_ISDIR))


def _may_be(path: Path, condition: Callable[[int], bool]) -> bool:
    """Return whether the path has such a mode, or cannot be looked at: then reading it will say why."""
    try:
        return condition(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _content(folder: Path) -> Content:
    with os.scandir(folder) as entries:
        stats = {entry.name: entry.stat() for entry in entries}
    if MANIFEST in stats:  # folders in a bundle's are other versions, whose coming and going does not change it
        stats = {name: found for name, found in stats.items() if not stat.S_ISDIR(found.st_mode)}
    return tuple(
        sorted((name, one.st_size, one.st_ino, one.st_mtime_ns, one.st_ctime_ns) for name, one in stats.items())
    )


def _has_changed(found: Found) -> bool:
    try:
        return _content(found.folder) != found.content
    except OSError:
        return True


def _read(folder: Path, content: Content) -> Found:
    """Read the manifest. Raises BundleError, also if a file is missing or not complete yet."""
    manifest, digest = read_manifest(folder)
    sizes = {name: size for name, size, *_ in content}
    if MANIFEST not in sizes:  # it came after the look at the folder
        raise BundleError(f"{folder / MANIFEST}: is missing")
    for name, record in manifest.files.items():
        if name not in sizes:
            raise BundleError(f"{folder / name}: is missing")
        if sizes[name] != record.bytes:
            raise BundleError(f"{folder / name}: {sizes[name]} bytes, the manifest says {record.bytes}")
    return Found(folder, content, manifest, digest)
