"""A Prometheus that reads one server, and what deploy/observability asks it."""

import json
import math
import re
import shutil
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

__all__ = [
    "OBSERVABILITY",
    "SCRAPE_SECONDS",
    "Prometheus",
    "alert_queries",
    "dashboard_queries",
    "free_port",
    "metric_names",
    "run_prometheus",
    "tool",
]

ROOT = Path(__file__).parents[2]
OBSERVABILITY = ROOT / "deploy" / "observability"

KEYWORDS = {"and", "or", "unless", "bool", "offset"}
# Strings, selectors, ranges and lists of labels.
NO_METRICS = re.compile(
    r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)', re.DOTALL
)
IDENTIFIERS = re.compile(r"(?<![\w.])[a-zA-Z_:][\w:]*(?!\s*\(|\w)")
COMPARISON = re.compile(r"\s*(?:==|!=|>=|<=|>|<)\s*[\d.e]+\s*$")
START_SECONDS = 60
SCRAPE_SECONDS = 2


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def query(self, expression: str, at: float) -> list[float]:
        """Return the value of each series of the answer at time.time() `at`, without those that are no number."""
        values = (float(series["value"][1]) for series in self._ask(expression, at))
        return [value for value in values if not math.isnan(value)]

    def span(self, metric: str, seconds: int, at: float) -> tuple[float, float]:
        """Return the time.time() of the first and the last sample in a range: rate() knows no others."""
        times = [time for series in self._ask(f"{metric}[{seconds}s]", at) for time, _ in series["values"]]
        return min(times), max(times)

    def wait_for_scrape(self, after: float) -> None:
        """Wait until the server was read later than time.time() `after`."""
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
def run_prometheus(folder: Path, port: int) -> Iterator[Prometheus]:
    """Read a metrics port of this machine as deploy/observability says, but more often, with its files in `folder`."""
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
        yield _wait_until_ready(process, Prometheus(own))
    finally:
        process.terminate()
        process.wait()


def _configuration(port: int) -> str:
    settings = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"}
    settings["rule_files"] = [str(OBSERVABILITY / file) for file in settings["rule_files"]]
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    return yaml.safe_dump(settings)


def _wait_until_ready(process: "subprocess.Popen[bytes]", prometheus: Prometheus) -> Prometheus:
    end = time.monotonic() + START_SECONDS
    while not prometheus.is_ready():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit("prometheus does not start")
        time.sleep(0.1)
    return prometheus


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def tool(name: str) -> str | None:
    """Return the path of `prometheus` or `promtool`, installed or fetched by `make prometheus`."""
    return shutil.which(name) or shutil.which(name, path=str(ROOT / ".tools" / "usr" / "bin"))


def dashboard_queries(interval: str) -> list[tuple[str, str]]:
    """Return (panel, query) for all panels, servers and models; rates are over `interval`."""
    dashboard = json.loads((OBSERVABILITY / "dashboard.json").read_text())
    variables = (("$__rate_interval", interval), ("$instance", ".*"), ("$model", ".*"))
    found = []
    for panel in dashboard["panels"]:
        for query in (target["expr"] for target in panel.get("targets", ())):
            for name, value in variables:
                query = query.replace(name, value)
            found.append((panel["title"], query))
    return found


def alert_queries() -> list[tuple[str, str]]:
    """Return (alert, expression that it compares with a threshold)."""
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())
    return [(rule["alert"], query) for rule in _rules(rules) for query in _operands(rule["expr"])]


def metric_names(query: str) -> set[str]:
    return set(IDENTIFIERS.findall(NO_METRICS.sub(" ", query))) - KEYWORDS


def _rules(file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in file["groups"]:
        yield from group["rules"]


def _operands(expression: str) -> list[str]:
    """Return what an alert looks at, without thresholds: it must have values even while the alert is silent."""
    return [COMPARISON.sub("", part).strip() for part in re.split(r"\b(?:and|or|unless)\b", expression)]
