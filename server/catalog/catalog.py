"""The models of a server: which there are, which are loaded, who uses them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

from server.catalog.loaded_model import ServedModel
from server.catalog.loader import Loader
from server.catalog.reconcile import Updates
from server.catalog.versions import Standing, Version, Versions
from server.engine.messages import Reason
from server.errors import ModelUnusable, Overloaded
from server.observe.metrics import Metrics
from server.settings import ServerSettings

__all__ = ["Catalog"]


class Catalog:
    """The models by name and version. To be made and used in the event loop.

    Args:
        engine_failed: is told when an engine breaks.
    """

    def __init__(
        self, settings: ServerSettings, metrics: Metrics, engine_failed: Callable[[BaseException], None]
    ) -> None:
        self._versions, self._loader = Versions(), Loader(settings, metrics, engine_failed)
        self._updates = Updates(settings, self._versions, self._loader)
        self._watching: asyncio.Task[None] | None = None
        self._calls, self._max_wait, self._most_texts = 0, settings.max_wait, settings.most_texts

    async def start(self) -> None:
        """Offers, and loads, what is in the folder, and watches it from now on.

        What cannot be used is reported. Raises OSError if the folder cannot be read, or RuntimeMissing.
        """
        await self._updates.first()
        self._watching = asyncio.create_task(self._updates.watch())

    def look_soon(self) -> None:
        """Looks for new and gone bundles now, and tries again what failed."""
        self._updates.look_soon()

    def __iter__(self) -> Iterator[Version]:
        """All that may be asked for, by name, the highest version first."""
        return iter(self._versions)

    def __len__(self) -> int:
        """Versions that can be used, as far as is known."""
        return sum(version.standing is not Standing.FAILED for version in self._versions)

    def get(self, wanted: str) -> Version:
        """The version of that name (NAME or NAME@VERSION). Raises ModelNotFound, InvalidField or ModelUnusable."""
        return self._versions.choose(wanted, "")

    def is_default(self, version: Version) -> bool:
        return self._versions.default(version.found.manifest.name) is version

    def memory_of(self, version: Version) -> int:
        """Bytes that it takes at most when it is loaded."""
        return self._loader.memory_of(version)

    @asynccontextmanager
    async def use(self, wanted: str, digest: str) -> AsyncIterator[ServedModel]:
        """The model that a request means, loaded if it was not; it stays until the block ends.

        Args:
            wanted, digest: see Versions.choose.

        Raises:
            ModelNotFound, InvalidField, ModelUnusable, Overloaded, ShuttingDown
        """
        self._calls += 1
        looked = False
        try:
            while True:
                version = self._versions.choose(wanted, digest)
                with version.in_use():
                    model = await self._loaded(version)
                    if model:
                        yield model
                        return
                # The next one is tried, until `choose` knows none.
                if not looked and self._may_work_now(version):
                    looked = True
                    await self._look_again()
        finally:
            self._calls -= 1
            self._loader.room.changed()

    async def _loaded(self, version: Version) -> ServedModel | None:
        """None if it cannot be used, or not any more. Raises Overloaded."""
        if not version.served and version.users > self._most_texts:
            raise Overloaded.too_many(self._most_texts)
        try:
            return version.served or await self._loader.wait_for(version)
        except ModelUnusable:
            return None

    def _may_work_now(self, version: Version) -> bool:
        return version.standing is Standing.FAILED and not self._loader.failures.settles(version.found)

    async def _look_again(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._updates.look_again(), self._max_wait)

    async def wait_until_idle(self) -> None:
        """For the end: looks no more, and returns when no call has a model, or waits for one."""
        self._stop_watching()
        while self._calls:
            await self._loader.room.wait_for_change()

    def drain_streams(self) -> None:
        """Ends what is open where it is, so that it can go on elsewhere."""
        self._loader.give_up()
        for model in self._loader:
            model.streams.conclude_all(Reason.DRAINED)

    def fail_streams(self) -> None:
        self._loader.give_up()
        for model in self._loader:
            model.streams.fail_all()

    def stop(self) -> None:
        """Ends the engines, at the end of the tick that runs."""
        self._stop_watching()
        self._loader.stop()

    def _stop_watching(self) -> None:
        if self._watching:
            self._watching.cancel()
