"""A server's life: bind, load, serve, drain, end."""

import asyncio
import gc
import logging
import os
import signal
from contextlib import suppress

import grpc

from server.access.authentication import Authenticator
from server.access.cancel_limit import CancelLimit
from server.access.listener import bind, describe, files_of
from server.catalog.catalog import Catalog
from server.catalog.model_factory import ModelFactory
from server.engine.messages import Reason
from server.errors import CannotStart, join_names
from server.http.app import build
from server.http.exchange import METHODS as HTTP_METHODS
from server.http.port import HttpPort
from server.http.status import start_status_port
from server.observe.metrics import Stage
from server.observe.observers import Observation
from server.oip.inference import InferenceService
from server.oip.replicas import Replicas
from server.oip.repository import Repository
from server.oip.step_models import StepModels
from server.runtime.host_runner import RuntimeMissing, check_runtime
from server.service.activations import StateReader
from server.service.calls import Calls
from server.service.generation import TextGenerationService
from server.service.health import Health
from server.service.interceptors.calls import CallInterceptor
from server.service.interceptors.decoding import DecodingInterceptor
from server.service.interceptors.errors import ErrorInterceptor
from server.service.models import ModelsService
from server.service.resume_tokens import Keys
from server.service.rpcs import METHODS, SERVICES, add_services
from server.settings import ServerSettings

__all__ = ["Server"]

log = logging.getLogger("charstream.server")

# Cancelled calls get this long to leave before the process ends.
LAST_SECONDS = 1.0
OTHER_MODELS = "`charstream export` makes bundles, --models names their folder, --pretrained serves what came with it"
# A request's other fields.
REQUEST_OVERHEAD_BYTES = 64 << 10
# New objects before the youngest are looked through, and of how many such looks one takes in older ones.
GC_THRESHOLDS = 5000, 10, 10
LEAST_PENDING = 1000  # gRPC's default


class Server:
    """One process's server. `run` returns its exit code."""

    def __init__(self, settings: ServerSettings) -> None:
        counted = METHODS if settings.http_port is None else METHODS | HTTP_METHODS
        self._settings, self._observation = settings, Observation(settings, counted)
        metrics = self._observation.metrics
        if settings.metrics_port is not None:
            start_status_port(settings.metrics_host, settings.metrics_port, metrics)
        factory = ModelFactory(settings, metrics, self._on_engine_error)
        self._catalog = Catalog(settings, factory, metrics.count_load_failure)
        self._ending, self._drain = asyncio.Event(), asyncio.Event()  # a signal came; calls are refused
        self._health = Health(SERVICES)
        self._replicas: Replicas | None = None
        self._engine_error: BaseException | None = None

    async def run(self) -> int:
        """Serve until a signal comes. Return 0 after a drain, 1 if an engine broke. Raises CannotStart."""
        with files_of("--tokens"):
            authenticator = Authenticator(self._settings.tokens)
        cancel_limit = CancelLimit(self._settings.connection_cancels)
        calls = Calls(authenticator, self._observation.observers, cancel_limit)
        interceptors = [ErrorInterceptor(), CallInterceptor(calls), DecodingInterceptor()]
        server = grpc.aio.server(options=_options(self._settings), interceptors=interceptors)
        port = bind(server, self._settings)
        http = None if self._settings.http_port is None else HttpPort(self._settings.http_port, self._settings)
        if await self._start(server, calls, http):
            log.info("listening on %s", describe(self._settings, port))
            await self._ending.wait()
        else:
            self._drain.set()
        await self._finish(server, http)
        return 1 if self._engine_error else 0

    async def _start(self, server: grpc.aio.Server, calls: Calls, http: HttpPort | None) -> bool:
        """Load the models and serve them. Return False if a signal came first."""
        self._handle_signals()
        keys = self._read_keys()
        _spare_the_collector()
        if not await self._load():
            return False
        if self._settings.replicas:
            with files_of("--replicas"):
                self._replicas = Replicas(self._settings, keys, self._catalog, self._drain)
            self._replicas.serve(server)
        generation = TextGenerationService(self._catalog, self._settings, keys, self._drain)
        models = ModelsService(self._catalog, self._settings)
        add_services(server, generation, models, self._inference(calls, generation), self._health)
        await server.start()
        if http:
            states = StateReader(self._catalog, self._settings, generation.quotas, self._drain)
            http.start(build(calls, generation, models, states, self._settings, self._observation.metrics))
        self._observation.metrics.stage = Stage.READY
        return True

    def _inference(self, calls: Calls, generation: TextGenerationService) -> InferenceService:
        observed = self._observation
        take_sequence = self._replicas.take if self._replicas else None
        steps = StepModels(self._catalog, self._settings, generation.quotas, self._drain, take_sequence)
        repository = Repository(self._catalog, self._settings, observed.statistics, observed.metrics.runs)
        return InferenceService(self._settings, calls, generation, steps, repository, self._drain)

    def _read_keys(self) -> Keys:
        path = self._settings.resume_keys
        with files_of("--resume-keys"):
            keys = Keys.read(path)
        log.info("resume tokens: %s", f"keys of {path}" if path else "a key that ends with this process")
        return keys

    async def _load(self) -> bool:
        """Return False if a signal came first."""
        loading, ending = asyncio.create_task(self._load_models()), asyncio.create_task(self._ending.wait())
        await asyncio.wait([loading, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if loading.done():
            loading.result()
        loading.cancel()
        return not self._ending.is_set()

    async def _load_models(self) -> None:
        try:
            check_runtime()
            await self._catalog.start()
        except RuntimeMissing as error:
            raise CannotStart(str(error)) from None
        except OSError as error:
            raise CannotStart(f"{self._settings.folder_flag}: {error.strerror}: {OTHER_MODELS}") from None
        if not len(self._catalog):
            raise CannotStart(f"{self._settings.folder_flag}: holds no bundle that can be served: {OTHER_MODELS}")
        default, versions = self._settings.default, self._catalog.versions
        if default and not versions.of(default):
            served = join_names(versions.names())
            raise CannotStart(f"--default {default}: no bundle has that name; served are {served}")

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._look_for_models)

    def _look_for_models(self) -> None:
        log.info("SIGHUP: looks at %s for new models, and tries again those that failed", self._settings.models)
        self._catalog.look_soon()

    def _on_signal(self, number: int) -> None:
        if self._ending.is_set():
            log.warning("second signal: ends at once")
            logging.shutdown()
            os._exit(128 + number)
        log.info("%s: drains for at most %g s", signal.Signals(number).name, self._settings.grace)
        self._observation.metrics.stage = Stage.DRAINING
        self._ending.set()

    def _on_engine_error(self, error: BaseException) -> None:
        self._engine_error = error
        self._observation.metrics.stage = Stage.BROKEN
        self._ending.set()
        self._drain.set()
        self._fail_streams()

    async def _finish(self, server: grpc.aio.Server, http: HttpPort | None) -> None:
        self._health.stop_serving()
        # Load balancers need a while to notice; calls that come until then are served, unless an engine breaks.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._drain.wait(), self._settings.drain_delay)
        self._drain.set()
        try:
            async with asyncio.timeout(self._settings.grace):
                # First, and while texts end: callers look for their sequences elsewhere from now on.
                if self._replicas:
                    await self._replicas.hand_over()
                await self._catalog.wait_until_idle()
                if self._replicas:
                    await self._replicas.hand_over()  # those of steps that were at work
        except TimeoutError:
            log.warning("the grace is over: remaining streams are cut")
            self._catalog.loader.give_up()
            for model in self._catalog.loader:
                model.streams.conclude_all(Reason.DRAINED)  # texts end where they are, and can go on elsewhere
            with suppress(TimeoutError):
                await asyncio.wait_for(self._catalog.wait_until_idle(), LAST_SECONDS)
            self._fail_streams()
        if http:
            await http.stop()
        await server.stop(LAST_SECONDS)
        self._catalog.stop()
        self._observation.close()
        log.info("ended")

    def _fail_streams(self) -> None:
        self._catalog.loader.give_up()
        for model in self._catalog.loader:
            model.streams.fail_all()


def _spare_the_collector() -> None:
    """Keep what is there before models are loaded, which may go again, out of Python's collections of garbage.

    They went through all of it every second or two under load, and nothing was sent for a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    # Calls that are given up pass through the same queue: a flood of them must not push the others out.
    pending = max(LEAST_PENDING, settings.most_texts)
    # A prompt and received text, each of characters of at most 4 bytes, and a resume token.
    largest_request = 8 * settings.max_prompt_chars + settings.max_token_bytes + REQUEST_OVERHEAD_BYTES
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", int(settings.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout * 1000)),
        # grpc 1.85 waits for the answer as long as this option says, 60 s by default, not keepalive_timeout_ms.
        ("grpc.http2.ping_timeout_ms", int(settings.keepalive_timeout * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # How often clients may probe us; a proxy does often, to notice soon who has stopped.
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        # Beyond these, gRPC cancels calls that arrive together, before our code can say what the limit is.
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", 3 * pending),
        ("grpc.max_receive_message_length", largest_request),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", settings.connection_streams),
        ("grpc.max_connection_idle_ms", int(settings.connection_idle * 1000)),
        ("grpc.server_handshake_timeout_ms", int(settings.handshake_timeout * 1000)),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
    ]
