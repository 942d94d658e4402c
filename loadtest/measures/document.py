"""The document of a load test: everything that was measured, as JSON that reports, gates and comparisons read.

    {"format": 1, "answer": "run", "made": ..., "origin": {...}, "runs": [RUN, ...], "finding": {...}}

A RUN has `scenario`, `users`, `seconds`, `figures`, `measures`, `errors`, `kinds`, `series`, `checks`, `generator`,
`server` and `notes`, as `run_document` makes them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest.measures.distribution import Distribution
from loadtest.measures.gates import STATISTICS
from loadtest.measures.measures import Measures
from loadtest.measures.record import MEASURES

__all__ = ["FORMAT", "Document", "document", "merge_distributions", "read_document", "run_document", "write_document"]

FORMAT = 1
Document = dict[str, Any]


def run_document(measures: Measures, *, checks: Mapping[str, Any], is_brief: bool = False, **facts: Any) -> Document:
    """Return the document of one run; `facts` are its other parts. A brief one, for a table, lacks the series."""
    return {
        **facts,
        "seconds": round(measures.seconds, 3),
        "figures": _figures(measures, checks),
        "measures": {
            name: _measure(measures.distributions[name]) for name in MEASURES if name in measures.distributions
        },
        "counts": dict(measures.counts),
        "errors": [
            {"status": status, "reason": reason, "count": count}
            for (status, reason), count in measures.errors.most_common()
        ],
        "kinds": {
            name: {**counts, "whole": _statistics(measures.kind_times[name]) if name in measures.kind_times else {}}
            for name, counts in measures.kinds.items()
        },
        "goodput": str(measures.objectives),
        "series": [] if is_brief else measures.timeline.series(),
        "checks": dict(checks),
    }


def _figures(measures: Measures, checks: Mapping[str, Any]) -> dict[str, float | None]:
    counts = measures.counts
    judged = counts["finished"] + counts["failed"]
    return {
        "goodput": measures.goodput,
        "good-per-second": measures.per_second("good") if measures.objectives else None,
        "chars-per-second": measures.per_second("chars"),
        "messages-per-second": measures.per_second("messages"),
        "streams-per-second": measures.per_second("finished"),
        "finished": counts["finished"],
        "failed": counts["failed"],
        "failed-share": counts["failed"] / judged if judged else None,
        "unsent": counts["unsent"],
        "differing": checks.get("differing", 0),
    }


def _measure(found: Distribution) -> dict[str, Any]:
    return {"count": found.count, **_statistics(found), "distribution": found.to_json()}


def _statistics(found: Distribution) -> dict[str, float]:
    if not found.count:
        return {}
    values = {"mean": found.mean, "max": found.most}
    values |= {name: found.percentile(float(name[1:])) for name in STATISTICS if name.startswith("p")}
    return {name: round(values[name], 4) for name in STATISTICS}


def merge_distributions(runs: Sequence[Document], name: str) -> Distribution:
    """Return a measure's values of several runs as one distribution."""
    merged = Distribution()
    for run in runs:
        if name in run["measures"]:
            merged.merge(Distribution.from_json(run["measures"][name]["distribution"]))
    return merged


def document(answer: str, origin: Mapping[str, Any], runs: Sequence[Document], finding: Mapping[str, Any]) -> Document:
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "format": FORMAT, "answer": answer, "made": made, "origin": dict(origin), "runs": list(runs),
        "finding": dict(finding),
    }  # fmt: skip


def write_document(file: Path, content: Document) -> None:
    """Write it as a whole or not at all. Raises OSError."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(json.dumps(_without_nan(content), indent=1) + "\n", encoding="utf-8")
    new.replace(file)


def read_document(file: Path) -> Document:
    """Raises ValueError: it can't be read, or it is none."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.get("runs"):
        raise ValueError(f"{file}: is no result of charstream loadtest in format {FORMAT}; --result FILE writes one")
    return content


def _without_nan(value: Any) -> Any:
    """Return the content with None for every number that JSON has no word for."""
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
