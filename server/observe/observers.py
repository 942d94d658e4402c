"""Who is told of calls, and where it can be read."""

from collections.abc import Callable

from server.access.listener import CannotStart
from server.observe.logs import CallLog, lost_lines
from server.observe.metrics import Metrics
from server.observe.status_http import StatusPort
from server.service.interceptors.calls import Observer
from server.settings import ServerSettings

__all__ = ["Observation"]


class Observation:
    """Logs, metrics with their port, and traces, as the settings want them. To be made in the event loop.

    Attributes:
        close: sends the last traces, if there are any.

    Raises:
        CannotStart: the port cannot be had, or the packages for traces are missing.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.metrics, self.observers = Metrics(lost_lines), list[Observer]()
        if settings.log_calls:
            self.observers.append(CallLog(texts=settings.log_texts))
        if settings.metrics_port is not None:
            self.observers.append(self.metrics)
            _open_port(settings.metrics_host, settings.metrics_port, self.metrics)
        self.close: Callable[[], None] = lambda: None
        if settings.traces:
            self._send_traces(settings.traces)

    def _send_traces(self, url: str) -> None:
        try:
            from server.observe.traces import Traces
        except ModuleNotFoundError as error:
            raise CannotStart(f"--traces: {error}: the packages of charstream[traces] are not installed") from None
        traces = Traces(url)
        self.observers.append(traces)
        self.close = traces.close


def _open_port(host: str, port: int, metrics: Metrics) -> None:
    try:
        StatusPort(host, port, metrics)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "is no name that a host can have"
        raise CannotStart(f"--metrics-port: cannot listen on {host}:{port}: {reason}") from None
