"""Loads and unloads models: one after the other, in a thread of its own, as far as there is room."""

import asyncio
import ctypes
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bundle.read import BundleError
from server.catalog.loaded_model import ServedModel, memory_of, new_streams, serve
from server.catalog.memory_budget import Room
from server.catalog.scan import Content, Found, Reports, Unsettled, read_found
from server.catalog.versions import Version
from server.errors import ModelUnusable, Overloaded, ShuttingDown
from server.observe.metrics import Metrics
from server.runtime.host_runner import CannotRun, RuntimeMissing
from server.settings import ServerSettings
from server.streaming.open_streams import Streams

__all__ = ["Loader"]

log = logging.getLogger("charstream.models")

T = TypeVar("T")


class Loader:
    """Makes versions ready and ends them. To be used in the event loop.

    Args:
        engine_failed: is called in the event loop.
    """

    def __init__(
        self, settings: ServerSettings, metrics: Metrics, engine_failed: Callable[[BaseException], None]
    ) -> None:
        self._settings, self._metrics, self._engine_failed = settings, metrics, engine_failed
        self.room, self.failures = Room(settings, self.unload), Reports()
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "loader")
        self._turn = asyncio.Lock()
        self._loaded: list[Version] = []
        self._loads: set[asyncio.Task[ServedModel]] = set()

    def __iter__(self) -> Iterator[ServedModel]:
        """The loaded ones, retired ones with open streams among them."""
        return (version.served for version in self._loaded if version.served)

    def fits(self, version: Version) -> bool:
        """Whether there is room without unloading anything."""
        return self.room.fits(self.memory_of(version))

    def memory_of(self, version: Version) -> int:
        """Bytes that it may take, loaded or not."""
        return version.served.memory if version.served else memory_of(version.found.manifest, self._settings)

    def check_size(self, version: Version) -> None:
        """Raises ModelUnusable if there can never be room for it."""
        problem = self.room.too_large(self.memory_of(version))
        if problem:
            raise self._failed(version, f"{version.found.folder}: {problem}", problem, is_verdict=True)

    def report(self, folder: Path, content: Content | None, reason: str, *, is_verdict: bool = False) -> None:
        """Logs and counts why a folder is not served, once. See Reports.add."""
        if self.failures.add(folder, content, reason, is_verdict=is_verdict):
            self._metrics.load_failed()

    async def wait_for(self, version: Version) -> ServedModel:
        """The loaded version, for a caller who has it in use.

        Raises:
            ModelUnusable: it cannot be used, or not any more.
            Overloaded: it was not loaded in time, or there was no room for it.
            ShuttingDown: the server ends.
        """
        try:
            async with asyncio.timeout(self._settings.max_wait):
                return await self.load(version)
        except TimeoutError:
            limited = self.room.is_limited
            raise Overloaded.not_loaded(str(version), self._settings.max_wait, limited) from None

    async def load(self, version: Version) -> ServedModel:
        """Loads it, once however many ask; if nobody has it in use, only where there is room now.

        Raises: as `wait_for`.
        """
        if version.served:
            return version.served
        task = version.loading = version.loading or self._begin(version)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise ShuttingDown from None
            raise

    def _begin(self, version: Version) -> asyncio.Task[ServedModel]:
        def ended(task: asyncio.Task[ServedModel]) -> None:
            self._loads.discard(task)
            self.room.changed()
            if not task.cancelled():
                task.exception()  # those who wait have it, if there still are any

        task = asyncio.create_task(self._load(version, asked_for=bool(version.users)))
        task.add_done_callback(ended)
        self._loads.add(task)
        return task

    async def _load(self, version: Version, asked_for: bool) -> ServedModel:
        try:
            self.check_size(version)
            await self.room.take(version, self.memory_of(version))
            try:
                served = await self._serve_in_turn(version, asked_for)
            except Exception:
                self.room.release(version)
                raise
            self._note_loaded(version, served)
            return served
        finally:
            # Here, not when the task is done: who asks now has to begin anew.
            version.loading = None

    async def _serve_in_turn(self, version: Version, asked_for: bool) -> ServedModel:
        async with self._turn:
            version.check_not_retired()
            if asked_for and not version.users:
                raise Overloaded.not_loaded(str(version), self._settings.max_wait, self.room.is_limited)
            try:
                served = await self._in_thread(self._serve, version.found, new_streams(self._settings))
            except Exception as error:
                raise self._cannot_load(version, error) from error
            await self._in_thread(_return_memory)  # what loading took
            return served

    def _note_loaded(self, version: Version, served: ServedModel) -> None:
        self.room.correct(version, served.memory)
        version.served, version.loaded = served, time.monotonic()
        self._loaded.append(version)
        self.failures.remove(version.found.folder)
        log.info("serves %s", served)

    def _serve(self, found: Found, streams: Streams) -> ServedModel:
        """In the thread. Raises BundleError, CannotRun or RuntimeMissing."""
        return serve(read_found(found), self._settings, streams, self._metrics, self._on_engine_error)

    def _on_engine_error(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._engine_failed, error)

    def _cannot_load(self, version: Version, error: Exception) -> ModelUnusable:
        if not isinstance(error, (BundleError, CannotRun, RuntimeMissing, OSError, MemoryError)):
            log.exception("%s: unexpected", version)
        why = str(error) or repr(error)
        reason = why if isinstance(error, BundleError) else f"{version.found.folder}: {why}"
        is_verdict = not isinstance(error, (Unsettled, OSError, MemoryError))
        return self._failed(version, reason, "the server's log says why", is_verdict)

    def _failed(self, version: Version, reason: str, problem: str, is_verdict: bool) -> ModelUnusable:
        """`problem`: for callers."""
        self.report(version.found.folder, version.found.content, reason, is_verdict=is_verdict)
        return version.fail(problem)

    async def unload(self, version: Version) -> None:
        """Ends an idle one and frees its memory."""
        served, version.served = version.served, None
        assert served is not None
        self._loaded.remove(version)
        await self._in_thread(served.stop)
        # The next job begins when nothing has the model any more.
        del served
        await self._in_thread(_return_memory)
        self.room.release(version)
        log.info("unloaded %s", version)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await self._loop.run_in_executor(self._thread, function, *arguments)

    def give_up(self) -> None:
        """Those who wait for a load get ShuttingDown."""
        for task in self._loads:
            task.cancel()

    def stop(self) -> None:
        """Ends the engines, at the end of the tick that runs; what is being loaded is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        for served in self:
            served.stop()


def _return_memory() -> None:
    """glibc keeps what is freed, unless it is told."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
