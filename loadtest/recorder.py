"""The measures of a run in one of Locust's processes: from the generator beside it, at the master from all workers."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import gevent  # type: ignore[import-untyped]
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from client.commands.common import Connection, Tls, addresses
from loadtest.generator.config import GeneratorConfig
from loadtest.generator.link import GeneratorLink, GeneratorLost
from loadtest.live import LiveLine, live_text
from loadtest.measures.document import Document, run_document
from loadtest.measures.measures import Measures
from loadtest.measures.objectives import Objectives
from loadtest.server_metrics import ServerMetrics
from loadtest.settings import Recording, Scenario, from_flags, warmup_seconds

__all__ = ["METHOD", "WHOLE", "Recorder", "recorder_of"]

METHOD, WHOLE = "Generate", "whole call"  # the entry in Locust's own statistics
COLLECT_SECONDS = 1.0
NEAR = 0.8  # of what a null server gives
INTERVALS = 240  # of a run's timeline, at least a second each
_KEY, _MESSAGE = "charstream", "charstream-processes"


class Recorder:
    """The measures of this process's run; in a master's, of its workers."""

    def __init__(self, environment: Environment) -> None:
        self._environment, self._options = environment, _options(environment)
        self.scenario = from_flags(Scenario, self._options)
        self.faults: list[str] = []
        self._link: GeneratorLink | None = None
        self._processes = 1
        self._users = 0
        self._begin = 0.0
        self._live = LiveLine()
        self._metrics: ServerMetrics | None = None
        self._hosts: Sequence[str] = ()
        self._clear()

    def listen(self) -> None:
        """Hear of what Locust does. A worker sends what it measures, and a master adds it up."""
        given: Any = self._environment.events
        runner = self._environment.runner
        given.test_start.add_listener(self._start)
        given.test_stopping.add_listener(self._stop)
        given.test_stop.add_listener(lambda **_: self._collect())
        given.reset_stats.add_listener(lambda **_: self._clear())
        given.report_to_master.add_listener(self._send)
        given.worker_report.add_listener(self._receive)
        if isinstance(runner, WorkerRunner):
            runner.register_message(_MESSAGE, lambda msg, **_: self._set_processes(msg.data["count"]))
        if not isinstance(runner, MasterRunner):
            # A worker may be told to begin while it waits here: then this is the generator that it begins with.
            self._link = GeneratorLink()
            self._link.wait()

    def join(self, user: int) -> None:
        """Add a user, or begin to dispatch where streams begin by the clock."""
        self._users += 1
        if self._link and not self.scenario.is_open:
            self._link.send("join", user=user)
        elif self._link and self._users == 1:
            self._link.send("dispatch")

    def leave(self, user: int) -> None:
        self._users -= 1
        if self._link:
            self._link.send("leave", user=user)

    def run(self, *, is_brief: bool = False) -> Document:
        """Return the document of the run, as far as it has come; a brief one is enough for a table."""
        chars = sum(each.counts["chars"] for each in self.measures.timeline.intervals.values())
        finished = sum(each.counts["finished"] for each in self.measures.timeline.intervals.values())
        return run_document(
            self.measures,
            checks=self.checks,
            is_brief=is_brief,
            scenario=self.scenario.model_dump(mode="json"),
            users=getattr(self._options, "num_users", None) or 1,
            warmup=self._warmup,
            processes=self._processes,
            hosts=list(self._hosts),
            generator={
                **self._cost(),
                "null_messages_per_second": from_flags(Recording, self._options).null_limit,
            },
            server=self._metrics and self._metrics.to_json({"chars": chars, "finished": finished}),
            notes=self._notes(),
        )

    def _notes(self) -> list[str]:
        notes, limit = [], from_flags(Recording, self._options).null_limit
        rate = self.measures.per_second("messages")
        if limit and rate > NEAR * limit:
            notes.append(
                f"the load generator is near its limit: {rate:,.0f} messages/s, {limit:,.0f} from a server that costs "
                "nothing; the server may be able to do more (more --processes, another machine)"
            )
        if self._metrics and self._metrics.reason:
            notes.append(self._metrics.reason)
        return notes

    def close(self) -> None:
        if self._link:
            self._link.close()
            self._link = None
        self._live.clear()

    @property
    def checks(self) -> dict[str, Any]:
        """The checks of all processes, whose reports are of the whole run each."""
        counts: Counter[str] = Counter({"checked": 0, "alone": 0, "differing": 0})
        for report in self._reports.values():
            counts.update(report["checks"])
        lines = [line for report in self._reports.values() for line in report["differences"]]
        return {**counts, "differences": lines[:5]}

    @property
    def _warmup(self) -> float:
        return warmup_seconds(self.scenario, getattr(self._options, "run_time", None))

    def _cost(self) -> dict[str, float]:
        """Return what the streams cost the generators, in CPU seconds and microseconds, warm-up included."""
        intervals = self.measures.timeline.intervals.values()
        messages, ended = (sum(each.counts[name] for each in intervals) for name in ("messages", "ended"))
        seconds = sum(report["cpu_seconds"] for report in self._reports.values())
        whole = self.measures.seconds + self._warmup
        return {
            "cpu_seconds": seconds,
            "cores": seconds / whole if whole else 0.0,
            "us_per_message": 1e6 * seconds / messages if messages else 0.0,
            "us_per_stream": 1e6 * seconds / ended if ended else 0.0,
        }

    def _start(self, **_: Any) -> None:
        runner, options = self._environment.runner, self._options
        self.scenario = from_flags(Scenario, options)
        self._hosts = self._environment.host.split(",") if self._environment.host else addresses()
        self._clear()
        if isinstance(runner, MasterRunner):
            self._processes = max(1, runner.worker_count)
            runner.send_message(_MESSAGE, {"count": self._processes})
        if not isinstance(runner, WorkerRunner):
            settings = from_flags(Recording, options)
            self._metrics = ServerMetrics(settings.metrics) if settings.metrics else None
        if not isinstance(runner, MasterRunner):
            self._configure()
        self._users, self._begin = 0, time.monotonic()
        gevent.spawn(self._pump, self._begin)

    def _set_processes(self, count: int) -> None:
        self._processes = count

    def _pump(self, begin: float) -> None:
        """Collect until the run ends or another one begins, and show how it goes."""
        interval, next_reading = self._interval(), 0.0
        while self._begin == begin:
            self._collect()
            now = time.monotonic()
            if self._metrics and now >= next_reading:
                self._metrics.read()
                next_reading = now + interval
            self._show()
            gevent.sleep(COLLECT_SECONDS)

    def _show(self) -> None:
        if self._live.is_shown and not self._environment.web_ui and self._environment.runner:
            limit = getattr(self._options, "run_time", None)
            left = limit - (time.monotonic() - self._begin) if limit else None
            if not isinstance(self._environment.runner, WorkerRunner):
                self._live.show(live_text(self.measures, self._environment.runner.user_count, left))

    def _stop(self, **_: Any) -> None:
        """End all streams at the same time; Locust then ends its users one by one."""
        self._begin = 0.0
        if self._link:
            self._link.send("halt")
        if self._metrics:
            self._metrics.read()
        self._live.clear()

    def _configure(self) -> None:
        """Give the generator its part of the load; one that has made another run's is replaced."""
        options, runner = self._options, self._environment.runner
        if self._link is None or self._link.is_configured:
            self.close()
            self._link = GeneratorLink()
        self._link.configure(
            GeneratorConfig(
                connection=Connection(host=tuple(self._hosts), **from_flags(Tls, options).model_dump()),
                scenario=self.scenario,
                prompts=self.scenario.prompt,
                warmup=self._warmup,
                interval=self._interval(),
                process=max(0, runner.worker_index) if isinstance(runner, WorkerRunner) else 0,
                processes=self._processes,
                alone=from_flags(Recording, options).alone,
            )
        )

    def _interval(self) -> float:
        return max(1.0, (getattr(self._options, "run_time", None) or 0) / INTERVALS)

    def _collect(self) -> None:
        if self._link is None or not self._link.is_configured:
            return
        try:
            report = self._link.collect()
        except GeneratorLost as error:
            self._lose(str(error))
            return
        self._take(str(os.getpid()), report)
        events: Any = self._environment.events
        for ms, chars, reason in report["ended"]:
            failure = Exception(reason) if reason else None
            events.request.fire(
                request_type=METHOD, name=WHOLE, response_time=ms, response_length=chars, exception=failure, context={}
            )

    def _lose(self, reason: str) -> None:
        self._link = None
        self.faults.append(reason)
        if self._environment.runner:
            gevent.spawn(self._environment.runner.quit)

    def _take(self, process: str, report: dict[str, Any]) -> None:
        measures = Measures.from_json(report["measures"])
        self.measures.merge(measures)
        if isinstance(self._environment.runner, WorkerRunner):
            self._unsent.merge(measures)
        self._reports[process] = {name: report[name] for name in ("checks", "differences", "cpu_seconds")}

    def _clear(self) -> None:
        objectives = Objectives.parse(self.scenario.goodput)
        self.measures, self._unsent = Measures(objectives), Measures(objectives)
        self._reports: dict[str, dict[str, Any]] = {}

    def _send(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        self._collect()
        for report in self._reports.values():
            data[_KEY] = {"measures": self._unsent.to_json(), "faults": self.faults, **report}
        self._unsent = Measures(Objectives.parse(self.scenario.goodput))

    def _receive(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        if report := data.get(_KEY):
            self.faults += [line for line in report["faults"] if line not in self.faults]
            self._take(client_id, report)


def _options(environment: Environment) -> Any:
    return environment.parsed_options


def recorder_of(environment: Environment) -> Recorder:
    """Return the recorder that belongs to an environment, which the first call makes."""
    if not hasattr(environment, "recorder"):
        environment.recorder = Recorder(environment)  # type: ignore[attr-defined]
    found: Recorder = environment.recorder  # type: ignore[attr-defined]
    return found
