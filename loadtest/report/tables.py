"""The figures of a result as tables: CSV, and for the page."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from loadtest.measures.document import Document
from loadtest.measures.gates import STATISTICS
from loadtest.measures.record import MEASURES

__all__ = ["measures_csv", "series_csv"]


def measures_csv(content: Document) -> str:
    """Return a line for each run and measure; the scalar figures are lines with a value only."""
    head = ("run", "load", "measure", "unit", "count", *STATISTICS, "value")
    return _csv(head, _measure_lines(content))


def _measure_lines(content: Document) -> Iterable[Sequence[Any]]:
    for number, run in enumerate(content["runs"], 1):
        load = run.get("load", run["users"])
        for name, value in run["figures"].items():
            yield (number, load, name, "", "", *[""] * len(STATISTICS), "" if value is None else value)
        for name, row in run["measures"].items():
            yield (number, load, name, MEASURES[name].unit, row["count"], *(row.get(s, "") for s in STATISTICS), "")


def series_csv(content: Document) -> str:
    """Return a line for each run and interval."""
    names = [name for run in content["runs"] for row in run["series"][:1] for name in row]
    names = list(dict.fromkeys(names))
    rows = (
        (number, *(row.get(name, "") for name in names))
        for number, run in enumerate(content["runs"], 1)
        for row in run["series"]
    )
    return _csv(("run", *names), rows)


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
