"""Brings the served versions in line with the bundles in the folder."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from bundle.read import MANIFEST
from server.catalog.loader import Loader
from server.catalog.scan import Found, Look, Reports, look_at, version_order
from server.catalog.versions import Standing, Version, Versions
from server.errors import ModelUnusable, Overloaded, ShuttingDown
from server.runtime.host_runner import RuntimeMissing
from server.settings import ServerSettings

__all__ = ["Reconciler"]

log = logging.getLogger("charstream.models")

# A bundle is replaced by taking the old one away first: so a missing one is looked for again after this time.
REPLACED_SECONDS = 0.3


class Reconciler:
    """Looks at the folder, regularly and when it is told to; offers new versions, retires those that are gone."""

    def __init__(self, settings: ServerSettings, versions: Versions, loader: Loader[Any]) -> None:
        self._settings, self._versions, self._loader = settings, versions, loader
        self._seen, self._twins = Look(), Reports()
        # Not the loop's own threads, whose end would wait for a look: it may hang if the file system does not answer.
        self._thread = ThreadPoolExecutor(1, "looker")
        self._due, self._looked = asyncio.Event(), asyncio.Event()
        self._unreadable = self._default = ""
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Offer all bundles that can be used. Raises OSError if the folder cannot be read, or RuntimeMissing."""
        look = await self._look_at_folder()
        self._report(look)
        load_all, loader = self._settings.load == "start", self._loader
        await self._bring_in(look, lambda version: load_all and loader.budget.fits(loader.memory_of(version)))
        self._report_twins(look)
        self._report_default()

    async def watch(self) -> None:
        """Look again and again, until the server gives up its loads."""
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._due.wait(), self._settings.watch or None)
                self._due.clear()
                await self._try_to_look()
        except ShuttingDown:
            return
        finally:
            self._looked.set()  # no other look comes

    def look_soon(self) -> None:
        """Look as soon as possible, and try again the bundles that failed."""
        self._loader.failures.reconsider()
        self._due.set()

    async def look_again(self) -> None:
        """Return after a look that began now or later."""
        self._due.set()
        await self._looked.wait()

    async def _try_to_look(self) -> None:
        looked, self._looked = self._looked, asyncio.Event()
        try:
            await self._look()
        except OSError as error:
            reason = f"{self._settings.folder}: {error.strerror}"
            if reason != self._unreadable:
                log.error("%s; what was found before is served", reason)
            self._unreadable = reason
        except ShuttingDown:
            raise
        except Exception:
            log.exception("the look at %s failed", self._settings.folder)
        finally:
            looked.set()

    async def _look(self) -> None:
        look = await self._look_at_folder()
        if any(self._is_gone(version, look) for version in self._versions):
            await asyncio.sleep(REPLACED_SECONDS)
            look = await self._look_at_folder()
        self._unreadable = ""
        self._report(look)
        self._retire_gone(look, lambda version: not self._may_have_successor(version, look))
        # A new version is loaded before it is the default, as it may replace one that runs.
        load_all = self._settings.load == "start"
        await self._bring_in(look, lambda version: load_all or self._has_loaded(version.found.manifest.name))
        self._retire_gone(look, lambda version: True)
        self._report_twins(look)
        self._report_default()

    async def _look_at_folder(self) -> Look:
        loop = asyncio.get_running_loop()
        self._seen = await loop.run_in_executor(self._thread, look_at, self._settings.folder, self._seen)
        return self._seen

    def _has_loaded(self, name: str) -> bool:
        return any(version.is_loaded or version.is_loading for version in self._versions.of(name))

    async def _bring_in(self, look: Look, should_load: Callable[[Version], bool]) -> None:
        """Offer new versions. If a bundle fails, the next one of that name and version is tried."""
        tried: set[Path] = set()
        while new := [version for version in self._new_versions(look) if version.found.folder not in tried]:
            for version in _highest_first(new):
                tried.add(version.found.folder)
                # A load that a caller began may wait for memory: the next look offers the version.
                if not version.is_loading:
                    await self._offer(version, load=should_load(version))

    def _new_versions(self, look: Look) -> Iterator[Version]:
        """Return, for each name and version, a bundle that was not there before, or one that waits for memory."""
        for key, found in _by_key(look):
            usable = [one for one in found if not self._loader.failures.settles(one)]
            known = self._versions.get(key)
            if known and known.standing is Standing.FAILED:
                known = None
            same = [one for one in usable if known and one.digest == known.found.digest]
            if known and same:
                known.found = same[0]
                if known.standing is Standing.NEW:
                    yield known
            elif usable:
                yield Version(usable[0])

    async def _offer(self, version: Version, *, load: bool) -> None:
        """Take the version into the catalog, loaded or not. Raises RuntimeMissing."""
        known = self._versions.get(version.found.key)
        try:
            self._loader.check_size(version)
            if load:
                await self._loader.load(version)
        except ModelUnusable as error:
            if isinstance(error.__cause__, RuntimeMissing):
                raise error.__cause__ from None
            if known is None:
                self._versions.put(version)
            return
        except Overloaded:
            if self._has_loaded(version.found.manifest.name):
                if known is None:  # the next look tries again; until then the loaded one serves
                    log.warning("%s waits for room (--model-memory)", version)
                    self._versions.put(version)
                return
        version.standing = Standing.OFFERED
        self._versions.put(version)
        if known and known is not version:
            self._retire(known)
        if not version.is_loaded:
            log.info("offers %s, not loaded", version)

    def _is_gone(self, version: Version, look: Look) -> bool:
        """Return whether no folder has it, and its own folder has neither an incomplete nor a bad bundle."""
        folder = version.found.folder
        if any(found.key == version.found.key for found in look.found):
            return False
        if version.standing is Standing.FAILED:
            return True
        if any(parent in look.broken and look.broken[parent][0] is None for parent in folder.parents):
            return False
        if folder in look.broken:
            content, _ = look.broken[folder]
            return content is not None and all(name != MANIFEST for name, *_ in content)
        return not any(found.folder == folder and self._loader.failures.has(found) for found in look.found)

    def _may_have_successor(self, version: Version, look: Look) -> bool:
        """Return whether a new bundle is in its folder, or has its name: that is loaded before the version goes."""
        offered = {other.found.key for other in self._versions if other.standing is Standing.OFFERED}
        return any(
            found.folder == version.found.folder or (found.key[0] == version.found.key[0] and found.key not in offered)
            for found in look.found
        )

    def _retire_gone(self, look: Look, condition: Callable[[Version], bool]) -> None:
        for version in list(self._versions):
            if self._is_gone(version, look) and condition(version):
                self._retire(version)

    def _retire(self, version: Version) -> None:
        if version.standing is not Standing.FAILED:
            log.info("%s takes no new calls", version)
        version.standing = Standing.RETIRED
        self._versions.remove(version)
        self._begin_end(version)

    def withdraw(self, version: Version) -> None:
        """Let it take no new calls, until it is offered again; unload it when nobody has it."""
        if version.is_usable:
            log.info("%s takes no new calls", version)
            version.standing, version.problem = Standing.UNLOADED, "it was unloaded (RepositoryModelUnload)"
            self._begin_end(version)

    def _begin_end(self, version: Version) -> None:
        self._loader.budget.notify()
        task = asyncio.create_task(self._end(version))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, version: Version) -> None:
        """Unload it when nobody has it any more."""
        while version.users or version.is_loading:
            await self._loader.budget.wait_for_change()
        if version.is_loaded and version.standing is not Standing.OFFERED:  # offered again meanwhile
            await self._loader.unload(version)

    def _report(self, look: Look) -> None:
        failures = self._loader.failures
        failures.keep({*look.broken, *(found.folder for found in look.found if failures.has(found))})
        for folder, (_, reason) in look.broken.items():
            failures.add(folder, None, reason)

    def _report_twins(self, look: Look) -> None:
        twins = set()
        for key, found in _by_key(look):
            known = self._versions.get(key)
            for one in found:
                if known and one.folder != known.found.folder and not self._loader.failures.has(one):
                    self._twins.add(one.folder, one.content, f"{one.folder}: {known.found.folder} is {known} too")
                    twins.add(one.folder)
        self._twins.keep(twins)

    def _report_default(self) -> None:
        """Log which model requests mean that name none, when that is a question and the answer is new."""
        version = self._versions.server_default()
        name = version.found.manifest.name if version else ""
        if len(self._versions.names()) > 1 and name not in ("", self._default):
            why = "--default" if self._settings.default else "its bundle is the newest; --default chooses another"
            log.info("requests that name no model get %s (%s)", name, why)
        self._default = name


def _by_key(look: Look) -> list[tuple[tuple[str, str], list[Found]]]:
    """Group bundles by name and version; each group is ordered by path."""
    found = sorted(look.found, key=lambda one: one.key)
    return [(key, list(group)) for key, group in groupby(found, key=lambda one: one.key)]


def _highest_first(versions: list[Version]) -> list[Version]:
    """Order versions: first the highest of each name, then the second ones, and so on."""
    ranks: dict[Version, int] = {}
    of_name: Counter[str] = Counter()
    for version in sorted(versions, key=lambda one: version_order(one.found.manifest.version), reverse=True):
        ranks[version] = of_name[version.found.manifest.name]
        of_name[version.found.manifest.name] += 1
    return sorted(versions, key=ranks.__getitem__)
