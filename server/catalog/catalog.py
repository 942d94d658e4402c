"""The models of a server: which there are, which are loaded, who uses them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Generic

from server.catalog.loader import Factory, Loader, Model
from server.catalog.reconcile import Reconciler
from server.catalog.versions import Standing, Version, Versions
from server.errors import ModelNotFound, ModelUnusable, Overloaded
from server.settings import ServerSettings

__all__ = ["Catalog"]


class Catalog(Generic[Model]):
    """The models by name and version. To be made and used in the event loop.

    Args:
        factory: makes a bundle a loaded model.
        count_failure: is called for each bundle that cannot be served.

    Attributes:
        versions: all versions that may be asked for.
        loader: has the loaded models.
    """

    def __init__(self, settings: ServerSettings, factory: Factory[Model], count_failure: Callable[[], None]) -> None:
        self.versions = Versions(settings.default)
        self.loader = Loader(settings, factory, count_failure)
        self._reconciler = Reconciler(settings, self.versions, self.loader)
        self._watching: asyncio.Task[None] | None = None
        self._calls, self._max_wait, self._most_texts = 0, settings.max_wait, settings.most_texts

    async def start(self) -> None:
        """Offer, and load, the bundles in the folder, and watch it from now on.

        Bundles that cannot be used are reported. Raises OSError if the folder cannot be read, or RuntimeMissing.
        """
        await self._reconciler.start()
        self._watching = asyncio.create_task(self._reconciler.watch())

    def look_soon(self) -> None:
        """Look for new and gone bundles now, and try again those that failed."""
        self._reconciler.look_soon()

    def __len__(self) -> int:
        """Return the number of versions that can be used, as far as is known."""
        return sum(version.is_usable for version in self.versions)

    @asynccontextmanager
    async def use(self, wanted: str, digest: str) -> AsyncIterator[Model]:
        """Give the model that a request means, loaded if it was not; it stays loaded until the block ends.

        Args:
            wanted, digest: see Versions.choose.

        Raises:
            ModelNotFound, InvalidField, ModelUnusable, Overloaded, ShuttingDown
        """
        self._calls += 1
        looked = False
        try:
            while True:
                version = self.versions.choose(wanted, digest)
                with version.in_use():
                    model = await self._get_or_load(version)
                    if model:
                        yield model
                        return
                # The next one is tried, until `choose` knows none.
                failed = version.standing is Standing.FAILED
                if failed and not looked and not self.loader.failures.settles(version.found):
                    looked = True
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._reconciler.look_again(), self._max_wait)
        finally:
            self._calls -= 1
            self.loader.budget.notify()

    async def _get_or_load(self, version: Version) -> Model | None:
        """Return the model; None if it cannot be used, or not any more. Raises Overloaded."""
        if not version.is_loaded and version.users > self._most_texts:
            raise Overloaded.too_many(self._most_texts)
        try:
            return self.loader.get(version) or await self.loader.wait_for(version)
        except ModelUnusable:
            return None

    async def load(self, name: str) -> None:
        """Look for new bundles, and load the version that the name means; those that were unloaded are offered again.

        Raises: as `use`.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._reconciler.look_again(), self._max_wait)
        for version in self.versions.of(name):
            if version.standing is Standing.UNLOADED:
                version.standing = Standing.OFFERED
        async with self.use(name, ""):
            pass

    def unload(self, name: str) -> None:
        """Let all versions take no new calls; each is unloaded when no call has it. Raises ModelNotFound."""
        if not self.versions.of(name):
            raise ModelNotFound(name, self.versions.names())
        for version in self.versions.of(name):
            self._reconciler.withdraw(version)

    async def wait_until_idle(self) -> None:
        """Stop looking for bundles, and return when no call has a model or waits for one."""
        self._stop_watching()
        while self._calls:
            await self.loader.budget.wait_for_change()

    def stop(self) -> None:
        """End the engines, at the end of the tick that runs."""
        self._stop_watching()
        self.loader.stop()

    def _stop_watching(self) -> None:
        if self._watching:
            self._watching.cancel()
