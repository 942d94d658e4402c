"""The measures of a run's texts, beside Locust's statistics, which count one request for each text.

They are kept in Locust's own records, so that they come from its workers as its own do.
"""

from typing import Any

from locust.env import Environment
from locust.event import Events
from locust.stats import RequestStats, setup_distributed_stats_event_listeners

from loadtest.summary import Spread, Summary

__all__ = ["CUT_OFF", "FIRST_CHAR", "GAP_MEDIAN", "GAP_P99", "METHOD", "TOTAL", "Measures", "measures_of"]

METHOD = "Generate"
FIRST_CHAR, GAP_MEDIAN, GAP_P99, TOTAL = "first character", "gap: median", "gap: p99", "whole call"
CUT_OFF = "cut off by the end"  # has no time: only the characters count
_KEY = "charstream"  # in what a worker sends


class Measures:
    """The measures of all texts of a run, in this process; in that of a master, of its workers too."""

    def __init__(self, environment: Environment) -> None:
        self._stats = RequestStats()
        self._of_workers: Any = Events()  # type: ignore[no-untyped-call]
        setup_distributed_stats_event_listeners(self._of_workers, self._stats)
        events: Any = environment.events
        for beginning in (events.test_start, events.reset_stats):
            beginning.add_listener(self._clear)
        events.spawning_complete.add_listener(lambda **_: self._clear() if environment.reset_stats else None)
        events.report_to_master.add_listener(self._send)
        events.worker_report.add_listener(self._receive)

    def add(self, name: str, ms: float | None, chars: int = 0, error: Exception | None = None) -> None:
        self._stats.log_request(METHOD, name, ms, chars)  # type: ignore[arg-type]  # floats and None work too
        if error:
            self._stats.log_error(METHOD, name, error)

    def summary(self) -> Summary:
        stats = self._stats
        total, cut_off = stats.get(TOTAL, METHOD), stats.get(CUT_OFF, METHOD)
        return Summary(
            seconds=(stats.last_request_timestamp or stats.start_time) - stats.start_time,
            chars=total.total_content_length + cut_off.total_content_length,
            finished=total.num_requests - total.num_failures,
            failed=total.num_failures,
            cut_off=cut_off.num_requests,
            errors={str(error.error): error.occurrences for error in stats.errors.values()},
            first_char=self._spread(FIRST_CHAR),
            gap_median=self._spread(GAP_MEDIAN),
            gap_p99=self._spread(GAP_P99),
            total=self._spread(TOTAL),
        )

    def _spread(self, name: str) -> Spread:
        entry = self._stats.get(name, METHOD)
        p50, p99 = (entry.get_response_time_percentile(fraction) for fraction in (0.5, 0.99))
        return Spread(p50, p99, entry.max_response_time)

    def _clear(self, **_: Any) -> None:
        self._stats.clear_all()

    def _send(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        self._of_workers.report_to_master.fire(client_id=client_id, data=data.setdefault(_KEY, {}))

    def _receive(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        self._of_workers.worker_report.fire(client_id=client_id, data=data[_KEY])


def measures_of(environment: Environment) -> Measures:
    """Return the measures that belong to an environment, which the first call makes."""
    if not hasattr(environment, "measures"):
        environment.measures = Measures(environment)  # type: ignore[attr-defined]
    found: Measures = environment.measures  # type: ignore[attr-defined]
    return found
