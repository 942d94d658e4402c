"""Sets up logs, metrics and traces as the settings want them."""

from collections.abc import Callable, Mapping

from server.errors import CannotStart
from server.observe.call import Observer
from server.observe.logs import CallLog, lost_lines
from server.observe.metrics import Metrics
from server.observe.statistics import Statistics
from server.settings import ServerSettings

__all__ = ["Observation"]


class Observation:
    """The call log, metrics and traces. To be made in the event loop.

    Args:
        methods: the RPCs of this server, see Metrics.

    Attributes:
        observers: those that want to be told of calls.
        close: sends the last traces, if there are any.

    Raises:
        CannotStart: the packages for traces are missing.
    """

    def __init__(self, settings: ServerSettings, methods: Mapping[str, str]) -> None:
        self.metrics, self.statistics = Metrics(lost_lines, methods, settings.max_rows), Statistics()
        self.observers: list[Observer] = [self.statistics]
        if settings.log_calls:
            self.observers.append(CallLog(texts=settings.log_texts))
        if settings.metrics_port is not None:
            self.observers.append(self.metrics)
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
