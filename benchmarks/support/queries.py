"""What deploy/observability asks Prometheus, and where Prometheus is found."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

__all__ = ["OBSERVABILITY", "alert_queries", "dashboard_queries", "metric_names", "tool"]

ROOT = Path(__file__).parents[2]
OBSERVABILITY = ROOT / "deploy" / "observability"

KEYWORDS = {"and", "or", "unless", "bool", "offset"}
# Strings, selectors, ranges and lists of labels.
NO_METRICS = re.compile(
    r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)', re.DOTALL
)
IDENTIFIERS = re.compile(r"(?<![\w.])[a-zA-Z_:][\w:]*(?!\s*\(|\w)")
COMPARISON = re.compile(r"\s*(?:==|!=|>=|<=|>|<)\s*[\d.e]+\s*$")


def tool(name: str) -> str | None:
    """`prometheus` or `promtool`: installed, or fetched by `make prometheus`."""
    return shutil.which(name) or shutil.which(name, path=str(ROOT / ".tools" / "usr" / "bin"))


def dashboard_queries(interval: str) -> list[tuple[str, str]]:
    """(panel, query) of all panels, for all servers and models; rates are over `interval`."""
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
    """(alert, what it compares with a threshold)."""
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())
    return [(rule["alert"], query) for rule in _rules(rules) for query in _compared(rule["expr"])]


def metric_names(query: str) -> set[str]:
    return set(IDENTIFIERS.findall(NO_METRICS.sub(" ", query))) - KEYWORDS


def _rules(file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in file["groups"]:
        yield from group["rules"]


def _compared(expression: str) -> list[str]:
    """An alert is silent where all is well: what it looks at must be there all the same."""
    return [COMPARISON.sub("", part).strip() for part in re.split(r"\b(?:and|or|unless)\b", expression)]
