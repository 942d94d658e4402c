"""The link between Locust and charstream: Locust says how many users there are, the generator beside it makes their
streams, and what these measured goes to Locust's master as its own statistics do.

Import this only in a process that Locust runs.
"""

import itertools
import signal
import sys
from argparse import ArgumentParser
from typing import Any

import gevent  # type: ignore[import-untyped]
import locust.stats
from locust import User, events, task
from locust.env import Environment
from locust.runners import WorkerRunner
from locust.shape import LoadTestShape
from pydantic import ValidationError

from charstream.settings import fail
from client.commands.common import Tls
from loadtest.measures.document import document, write_document
from loadtest.origin import describe_origin
from loadtest.pages import show_characters
from loadtest.recorder import recorder_of
from loadtest.scenarios.shapes import user_count
from loadtest.settings import Recording, Scenario, Thresholds, add_flags, from_flags
from loadtest.summary import missed_thresholds, table
from loadtest.timing import bucket

__all__ = ["StreamUser"]

locust.stats.bucket_response_time = bucket  # type: ignore[assignment]  # floats work too

PARTS = (Tls, Scenario, Thresholds, Recording)
LONG_SECONDS = 3600


class StreamUser(User):
    """A user whose streams the generator makes; `number` is one that no other user of this process has."""

    abstract = True
    _numbers = itertools.count()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.number = next(self._numbers)

    def on_start(self) -> None:
        recorder_of(self.environment).join(self.number)

    @task
    def wait_for_the_end(self) -> None:
        while True:
            gevent.sleep(LONG_SECONDS)

    def on_stop(self) -> None:
        recorder_of(self.environment).leave(self.number)


class ScenarioShape(LoadTestShape):
    """The number of users of a ramp or a spike."""

    use_common_options = True

    def __init__(self, scenario: str, users: int, seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._scenario, self._users, self._seconds = scenario, users, seconds

    def tick(self) -> tuple[int, float] | None:
        at: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if at >= self._seconds:
            return None
        count = user_count("ramp" if self._scenario == "ramp" else "spike", self._users, self._seconds, at)
        return count, max(count, 1)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_flags(parser: ArgumentParser, **_: Any) -> None:
    for part in PARTS:
        add_flags(parser, part)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Environment, **_: Any) -> None:
    # gevent's clock stands still during imports: the run would end too early by that time.
    gevent.get_hub().loop.update_now()
    options: Any = environment.parsed_options
    try:
        scenario = from_flags(Scenario, options)
        for part in PARTS:
            from_flags(part, options)
    except ValidationError as error:
        fail("loadtest", error.errors()[0]["msg"].removeprefix("Value error, "))
    recorder_of(environment).listen()
    show_characters(environment)
    if scenario.scenario in ("ramp", "spike") and not isinstance(environment.runner, WorkerRunner):
        users, seconds = options.num_users or 1, options.run_time or 60
        environment.shape_class = ScenarioShape(scenario.scenario, users, seconds)
        environment.shape_class.runner = environment.runner


@events.init.add_listener  # type: ignore[untyped-decorator]
def _end_in_order(environment: Environment, **_: Any) -> None:
    """Let Ctrl-C end a run through Locust: as an exception it could rise in a greenlet of gevent's."""
    if environment.runner and not environment.web_ui and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        gevent.signal_handler(signal.SIGINT, environment.runner.quit)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _conclude(environment: Environment, **_: Any) -> None:
    """Print the table and set the exit code, once for the whole run."""
    options: Any = environment.parsed_options
    recorder = recorder_of(environment)
    recorder.close()
    if environment.runner is None or isinstance(environment.runner, WorkerRunner):
        return
    run = recorder.run()
    if file := from_flags(Recording, options).result:
        write_document(file, document("run", describe_origin(), [run], {}))
    lines = missed_thresholds(run, from_flags(Thresholds, options)) + recorder.faults
    print(table(run), flush=True)
    for line in lines:
        print(f"loadtest: {line}", file=sys.stderr)
    environment.process_exit_code = 1 if lines else 0
    if options.csv_prefix:
        # Locust doesn't flush its CSV writer at the end: let it wake once more, or up to a second is missing. After
        # that it must not wake again, as its files are closed.
        interval, locust.stats.CSV_STATS_INTERVAL_SEC = locust.stats.CSV_STATS_INTERVAL_SEC, LONG_SECONDS
        gevent.sleep(interval * 1.2)
