"""A Prometheus that reads one server."""

import json
import math
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from benchmarks.support.queries import OBSERVABILITY, tool

__all__ = ["SCRAPE_SECONDS", "Prometheus", "free_port", "scraping"]

START_SECONDS = 60
SCRAPE_SECONDS = 2


class Prometheus:
    """A running one."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def query(self, expression: str, at: float) -> list[float]:
        """A value for each series of the answer, as it was at time.time() `at`; without those that are no number."""
        values = (float(series["value"][1]) for series in self._ask(expression, at))
        return [value for value in values if not math.isnan(value)]

    def span(self, metric: str, seconds: int, at: float) -> tuple[float, float]:
        """The time.time() of the first and of the last sample in so many seconds: what rate() knows."""
        times = [time for series in self._ask(f"{metric}[{seconds}s]", at) for time, _ in series["values"]]
        return min(times), max(times)

    def wait_for_scrape(self, after: float) -> None:
        """Waits until the server was read at a later time.time()."""
        while not any(seen > after for seen in self.query('timestamp(up{job="charstream"})', time.time())):
            time.sleep(0.2)

    def is_ready(self) -> bool:
        with suppress(URLError, ConnectionError), urlopen(f"{self._url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def _ask(self, expression: str, at: float) -> list[dict[str, Any]]:
        parameters = urlencode({"query": expression, "time": at})
        with urlopen(f"{self._url}/api/v1/query?{parameters}", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


@contextmanager
def scraping(folder: Path, port: int) -> Iterator[Prometheus]:
    """Reads a metrics port of this machine as deploy/observability says, but more often, with its files in `folder`."""
    path = tool("prometheus")
    if path is None:
        raise SystemExit("prometheus is neither installed nor in .tools: make prometheus")
    (folder / "prometheus.yml").write_text(_configuration(port))
    own = free_port()
    arguments = (
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{own}",
        "--log.level=warn",
    )
    process = subprocess.Popen([path, *arguments])
    try:
        yield _ready(process, Prometheus(own))
    finally:
        process.terminate()
        process.wait()


def _configuration(port: int) -> str:
    settings = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"}
    settings["rule_files"] = [str(OBSERVABILITY / file) for file in settings["rule_files"]]
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    return yaml.safe_dump(settings)


def _ready(process: "subprocess.Popen[bytes]", prometheus: Prometheus) -> Prometheus:
    end = time.monotonic() + START_SECONDS
    while not prometheus.is_ready():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit("prometheus does not start")
        time.sleep(0.1)
    return prometheus


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
