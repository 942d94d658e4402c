"""The link between Locust and charstream: a user with a client, the measures of each stream, the table at the end.

Import this only in a process that Locust runs: it prepares gRPC for gevent.
"""

import itertools
import signal
import sys
import time
from argparse import ArgumentParser
from typing import Any

import gevent  # type: ignore[import-untyped]
import locust.stats
from grpc.experimental import gevent as grpc_gevent
from locust import User, events
from locust.env import Environment
from locust.runners import WorkerRunner

from client.commands.common import Connection, Tls, addresses, connect
from client.errors import CharstreamError, Overloaded, ServerError
from client.sync_streams import TextStream
from loadtest.measures import CUT_OFF, FIRST_CHAR, GAP_MEDIAN, GAP_P99, METHOD, TOTAL, Measures, measures_of
from loadtest.pages import show_characters
from loadtest.prompts import choose_prompts
from loadtest.settings import Scenario, Thresholds, add_flags, from_flags
from loadtest.summary import missed_thresholds, table
from loadtest.timing import StreamTiming, bucket

__all__ = ["StreamUser"]

# Each stream waits in a native thread of gevent's pool. The default of ten would let ten streams run and hang the rest;
# threads start as they are needed, so a high limit costs nothing.
gevent.get_hub().threadpool.maxsize = 4096
grpc_gevent.init_gevent()

locust.stats.bucket_response_time = bucket  # type: ignore[assignment]  # floats work too

CONNECT_SECONDS = 10.0
PAUSE_SECONDS = 1.0  # after a failure: a server that refuses at once must not be flooded


class StreamUser(User):
    """A user with a connection of its own, a `number` that no other user of this process has, and the scenario."""

    abstract = True
    _numbers = itertools.count()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.number = next(self._numbers)
        self.scenario = from_flags(Scenario, _options(environment))
        tls = from_flags(Tls, _options(environment))
        hosts = tuple(self.host.split(",")) if self.host else addresses()
        self.client = connect(Connection(host=hosts, **tls.model_dump()))
        self.prompts = self.scenario.prompt or self._served_prompts()

    def _served_prompts(self) -> tuple[str, ...]:
        try:
            return choose_prompts(self.client.model(self.scenario.model, timeout=CONNECT_SECONDS))
        except CharstreamError:
            return ("",)  # the texts will fail, and say why

    def on_stop(self) -> None:
        self.client.close()

    def wait_time(self) -> float:
        return self.scenario.wait

    def measure(self, stream: TextStream) -> None:
        """Read `stream` to its end, check it, and note its measures; Locust hears of one request for each stream."""
        started, arrivals = time.perf_counter(), list[float]()
        try:
            with stream:
                for _ in stream:
                    arrivals.append(time.perf_counter())
            _check(stream)
        except CharstreamError as error:
            self._end(started, stream.text, error)
            gevent.sleep((error.retry_after if isinstance(error, Overloaded) else None) or PAUSE_SECONDS)
        except gevent.GreenletExit:
            self._measures.add(CUT_OFF, None, len(stream.text))
            raise
        else:
            self._end(started, stream.text)
            self._add_timing(StreamTiming(started, arrivals))

    @property
    def _measures(self) -> Measures:
        return measures_of(self.environment)

    def _end(self, started: float, text: str, error: Exception | None = None) -> None:
        """Count a text that ended; its length is in characters."""
        ms = (time.perf_counter() - started) * 1000
        self._measures.add(TOTAL, ms, len(text), error)
        self.environment.events.request.fire(
            request_type=METHOD, name=TOTAL, response_time=ms, response_length=len(text), exception=error, context={}
        )

    def _add_timing(self, timing: StreamTiming) -> None:
        for name, ms in [
            (FIRST_CHAR, timing.first_char_ms),
            (GAP_MEDIAN, timing.gap_median_ms),
            (GAP_P99, timing.gap_p99_ms),
        ]:
            if ms is not None:
                self._measures.add(name, ms)


def _check(stream: TextStream) -> None:
    received = len(stream.raw or stream.text)  # the server counts bytes, where a model predicts them
    if stream.finish is None or stream.finish.generated_chars != received:
        raise ServerError(f"{received} characters came, the server says otherwise: {stream.finish}")


def _options(environment: Environment) -> Any:
    return environment.parsed_options


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_flags(parser: ArgumentParser, **_: Any) -> None:
    for part in (Tls, Scenario, Thresholds):
        add_flags(parser, part)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _set_clock(**_: Any) -> None:
    """Set gevent's clock, which stands still during imports: the run would end too early by that time."""
    gevent.get_hub().loop.update_now()


@events.init.add_listener  # type: ignore[untyped-decorator]
def _count_characters(environment: Environment, **_: Any) -> None:
    measures_of(environment)  # before the run begins, of which they hear
    show_characters(environment)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _end_in_order(environment: Environment, **_: Any) -> None:
    """Let Ctrl-C end a run through Locust: as an exception it could rise in a greenlet of gRPC's."""
    if environment.runner and not environment.web_ui and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        gevent.signal_handler(signal.SIGINT, environment.runner.quit)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _conclude(environment: Environment, **_: Any) -> None:
    """Print the table and set the exit code, once for the whole run."""
    if environment.runner is None or isinstance(environment.runner, WorkerRunner):
        return
    summary = measures_of(environment).summary()
    lines = missed_thresholds(summary, from_flags(Thresholds, _options(environment)))
    print(table(summary), flush=True)
    for line in lines:
        print(f"loadtest: {line}", file=sys.stderr)
    environment.process_exit_code = 1 if lines else 0
    if _options(environment).csv_prefix:
        # Locust doesn't flush its CSV writer at the end: let it wake once more, or up to a second is missing.
        gevent.sleep(locust.stats.CSV_STATS_INTERVAL_SEC * 1.2)
