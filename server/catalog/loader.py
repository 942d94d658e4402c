"""Loads and unloads models: one after the other, in a thread of its own, as far as the memory budget allows."""

import asyncio
import ctypes
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from bundle.manifest import Manifest
from bundle.read import Bundle, BundleError
from server.catalog.memory_budget import MemoryBudget
from server.catalog.scan import Reports, Unsettled, read_found
from server.catalog.versions import LoadState, Version
from server.errors import ModelUnusable, ShuttingDown
from server.runtime.host_runner import CannotRun, RuntimeMissing
from server.settings import ServerSettings

__all__ = ["Factory", "LoadedModel", "Loader"]

log = logging.getLogger("charstream.models")


class LoadedModel(Protocol):
    """A loaded model, as far as the catalog has to know it; its log has str(model)."""

    @property
    def memory(self) -> int: ...

    @property
    def stop(self) -> Callable[[], None]: ...


T = TypeVar("T")
Model = TypeVar("Model", bound=LoadedModel)
MadeModel = TypeVar("MadeModel", bound=LoadedModel, covariant=True)


class Factory(Protocol[MadeModel]):
    """Makes loaded models; see server/catalog/model_factory.py."""

    def memory_of(self, manifest: Manifest) -> int: ...

    def prepare(self) -> Callable[[Bundle], MadeModel]: ...


class Loader(Generic[Model]):
    """Loads versions and unloads them. To be used in the event loop.

    Args:
        count_failure: is called for each bundle that cannot be served.

    Attributes:
        failures: why folders are not served.
    """

    def __init__(self, settings: ServerSettings, factory: Factory[Model], count_failure: Callable[[], None]) -> None:
        self._max_wait, self._factory = settings.max_wait, factory
        self.budget, self.failures = MemoryBudget(settings, self.unload), Reports(count_failure)
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "loader")
        self._turn = asyncio.Lock()
        self._models: dict[Version, Model] = {}
        self._loads: dict[Version, asyncio.Task[Model]] = {}

    def __iter__(self) -> Iterator[Model]:
        """Iterate over the loaded models, retired ones with open streams among them."""
        return iter(self._models.values())

    def get(self, version: Version) -> Model | None:
        """Return the model of a version; None if it is not loaded."""
        return self._models.get(version)

    def memory_of(self, version: Version) -> int:
        """Return the bytes that the version may take, loaded or not."""
        model = self.get(version)
        return model.memory if model else self._factory.memory_of(version.found.manifest)

    def check_size(self, version: Version) -> None:
        """Raise ModelUnusable if the budget can never hold the version."""
        problem = self.budget.why_too_large(self.memory_of(version))
        if problem:
            raise self._fail(version, f"{version.found.folder}: {problem}", problem, is_verdict=True)

    async def wait_for(self, version: Version) -> Model:
        """Return the loaded model, for a caller who has the version in use.

        Raises:
            ModelUnusable: it cannot be used, or not any more.
            Overloaded: it was not loaded in time, or there was no memory for it.
            ShuttingDown: the server ends.
        """
        try:
            async with asyncio.timeout(self._max_wait):
                return await self.load(version)
        except TimeoutError:
            raise self.budget.timeout(version) from None

    async def load(self, version: Version) -> Model:
        """Load the version, only once however many callers ask; if none has it in use, only if there is memory now.

        Raises: as `wait_for`.
        """
        model = self.get(version)
        if model:
            return model
        task = self._loads.get(version) or self._begin(version)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise ShuttingDown from None
            raise

    def _begin(self, version: Version) -> asyncio.Task[Model]:
        def on_end(task: asyncio.Task[Model]) -> None:
            self.budget.notify()
            if not task.cancelled():
                task.exception()  # those who wait have it, if there still are any

        version.load_state = LoadState.LOADING
        task = self._loads[version] = asyncio.create_task(self._load(version, asked_for=bool(version.users)))
        task.add_done_callback(on_end)
        return task

    async def _load(self, version: Version, asked_for: bool) -> Model:
        try:
            self.check_size(version)
            await self.budget.take(version, self.memory_of(version))
            try:
                model = await self._load_in_turn(version, asked_for)
            except Exception:
                self.budget.release(version)
                raise
            self.budget.correct(version, model.memory)
            self._models[version], version.load_state, version.loaded = model, LoadState.LOADED, time.monotonic()
            self.failures.remove(version.found.folder)
            log.info("serves %s", model)
            return model
        finally:
            # Here, not when the task is done: who asks now has to begin anew.
            del self._loads[version]
            if version.is_loading:
                version.load_state = LoadState.NOT_LOADED

    async def _load_in_turn(self, version: Version, asked_for: bool) -> Model:
        async with self._turn:
            version.check_not_retired()
            if asked_for and not version.users:
                raise self.budget.timeout(version)
            make, found = self._factory.prepare(), version.found
            try:
                model = await self._in_thread(lambda: make(read_found(found)))
            except Exception as error:
                raise self._cannot_load(version, error) from error
            await self._in_thread(_return_memory)  # the memory that only loading took
            return model

    def _cannot_load(self, version: Version, error: Exception) -> ModelUnusable:
        if not isinstance(error, (BundleError, CannotRun, RuntimeMissing, OSError, MemoryError)):
            log.exception("%s: unexpected", version)
        why = str(error) or repr(error)
        if isinstance(error, MemoryError):
            megabytes = self.memory_of(version) / 1e6
            why = (
                f"out of memory; it takes up to {megabytes:.0f} MB, less with a lower --max-batch or --max-rows ({why})"
            )
        reason = why if isinstance(error, BundleError) else f"{version.found.folder}: {why}"
        is_verdict = not isinstance(error, (Unsettled, OSError, MemoryError))
        return self._fail(version, reason, "the server's log says why", is_verdict)

    def _fail(self, version: Version, reason: str, problem: str, is_verdict: bool) -> ModelUnusable:
        """Report why the version failed; return the error for callers, with the `problem` that they are told."""
        self.failures.add(version.found.folder, version.found.content, reason, is_verdict=is_verdict)
        return version.fail(problem)

    async def unload(self, version: Version) -> None:
        """End an idle version and free its memory."""
        model, version.load_state = self._models.pop(version), LoadState.NOT_LOADED
        await self._in_thread(model.stop)
        # The next job begins when nothing has the model any more.
        del model
        await self._in_thread(_return_memory)
        self.budget.release(version)
        log.info("unloaded %s", version)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._thread, function)

    def give_up(self) -> None:
        """Cancel all loads: those who wait for one get ShuttingDown."""
        for task in self._loads.values():
            task.cancel()

    def stop(self) -> None:
        """End the engines, at the end of the tick that runs; models that are being loaded are not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        with ThreadPoolExecutor(len(self._models) or 1) as threads:  # those whose engines hang don't add up
            list(threads.map(lambda model: model.stop(), self))


def _return_memory() -> None:
    """Make glibc return freed memory to the system: it keeps it otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
