"""The models of a server: which there are, which are loaded, who uses them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Generic

from server.catalog.loader import Factory, Loader, Model
from server.catalog.reconcile import Reconciler
from server.catalog.versions import Standing, Version, Versions
from server.errors import ModelUnusable, Overloaded
from server.settings import ServerSettings

__all__ = ["Catalog"]


class Catalog(Generic[Model]):
    """The models by name and version. To be made and used in the event loop.

    Args:
        factory: makes a bundle a loaded model.
        count_failure: is called for each bundle that cannot be served.
    """

    def __init__(self, settings: ServerSettings, factory: Factory[Model], count_failure: Callable[[], None]) -> None:
        self._versions, self._loader = Versions(), Loader(settings, factory, count_failure)
        self._reconciler = Reconciler(settings, self._versions, self._loader)
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

    def __iter__(self) -> Iterator[Version]:
        """Iterate over all versions that may be asked for, by name, the highest version first."""
        return iter(self._versions)

    def __len__(self) -> int:
        """Return the number of versions that can be used, as far as is known."""
        return sum(version.standing is not Standing.FAILED for version in self._versions)

    def get(self, wanted: str) -> Version:
        """Return the version NAME or NAME@VERSION. Raises ModelNotFound, InvalidField or ModelUnusable."""
        return self._versions.choose(wanted, "")

    def is_default(self, version: Version) -> bool:
        return self._versions.default(version.found.manifest.name) is version

    def memory_of(self, version: Version) -> int:
        """Return the most bytes that the version takes when it is loaded."""
        return self._loader.memory_of(version)

    def loaded_model(self, version: Version) -> Model | None:
        """Return the model of a version; None if it is not loaded."""
        return self._loader.get(version)

    def loaded_models(self) -> Iterator[Model]:
        """Iterate over all loaded models, those of retired versions among them."""
        return iter(self._loader)

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
                version = self._versions.choose(wanted, digest)
                with version.in_use():
                    model = await self._get_or_load(version)
                    if model:
                        yield model
                        return
                # The next one is tried, until `choose` knows none.
                failed = version.standing is Standing.FAILED
                if failed and not looked and not self._loader.failures.settles(version.found):
                    looked = True
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._reconciler.look_again(), self._max_wait)
        finally:
            self._calls -= 1
            self._loader.budget.notify()

    async def _get_or_load(self, version: Version) -> Model | None:
        """Return the model; None if it cannot be used, or not any more. Raises Overloaded."""
        if not version.is_loaded and version.users > self._most_texts:
            raise Overloaded.too_many(self._most_texts)
        try:
            return self._loader.get(version) or await self._loader.wait_for(version)
        except ModelUnusable:
            return None

    async def wait_until_idle(self) -> None:
        """Stop looking for bundles, and return when no call has a model or waits for one."""
        self._stop_watching()
        while self._calls:
            await self._loader.budget.wait_for_change()

    def give_up_loads(self) -> None:
        """Cancel all loads: calls that wait for one get ShuttingDown."""
        self._loader.give_up()

    def stop(self) -> None:
        """End the engines, at the end of the tick that runs."""
        self._stop_watching()
        self._loader.stop()

    def _stop_watching(self) -> None:
        if self._watching:
            self._watching.cancel()
