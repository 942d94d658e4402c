"""The server's own figures during a run, from its Prometheus page."""

import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["ServerMetrics", "parse_page"]

SECONDS = 5.0
MEMORY, ENGINE_MEMORY = "process_resident_memory_bytes", "charstream_engine_memory_bytes"
# Figures of the page -> names in the document: values as they are, and those of which the growth a second is shown.
GAUGES = {
    "charstream_rows": "rows",
    "charstream_waiting": "waiting",
    "charstream_paused_rows": "paused rows",
    MEMORY: "memory",
}
RATES = {
    "charstream_step_seconds_sum": "step seconds",
    "charstream_step_seconds_count": "steps",
    "process_cpu_seconds_total": "cpu seconds",
    "charstream_generated_chars": "chars",
    "charstream_finished_total": "finished",
    "charstream_refused_total": "refused",
}


def parse_page(text: str) -> dict[str, float]:
    """Return the sums over all labels of the figures above; of the characters only those that were generated.

    The memory is that of the server's process and its engine processes; pages that they share are counted for each.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name
            if name == "charstream_chars_total" and sample.labels.get("kind") == "generated":
                name = "charstream_generated_chars"
            if name == ENGINE_MEMORY:
                name = MEMORY
            if name in GAUGES or name in RATES:
                found[name] += sample.value
    return dict(found)


class ServerMetrics:
    """What a server's page said, from the first reading on.

    Args:
        url: where it is; without a path it is /metrics.
    """

    def __init__(self, url: str) -> None:
        url = url if "://" in url else f"http://{url}"
        self._url = url if url.split("://", 1)[1].count("/") else f"{url}/metrics"
        self._samples: list[tuple[float, dict[str, float]]] = []
        self.failures = 0
        self.reason = ""

    def read(self) -> None:
        """Read the page once more; a page that can't be read is counted."""
        try:
            with urllib.request.urlopen(self._url, timeout=SECONDS) as answer:
                page = parse_page(answer.read().decode())
        except (OSError, ValueError, urllib.error.URLError) as error:
            self.failures += 1
            self.reason = f"--metrics {self._url}: {error}"
        else:
            self._samples.append((time.monotonic(), page))

    def to_json(self, counts: Mapping[str, int]) -> dict[str, Any]:
        """Return the series, with `at` in seconds since the first reading, and both sides' counts of the whole run."""
        begin = self._samples[0][0] if self._samples else 0.0
        rows = []
        for (before, old), (now, new) in zip(self._samples, self._samples[1:], strict=False):
            row = {"at": round(now - begin, 3)}
            row |= {shown: new[name] for name, shown in GAUGES.items() if name in new}
            row |= {f"{shown} per second": _growth(old, new, name) / (now - before) for name, shown in RATES.items()}
            if steps := row["steps per second"]:
                row["step ms"] = 1000 * row["step seconds per second"] / steps
            rows.append(row)
        return {
            "url": self._url,
            "series": rows,
            "failures": self.failures,
            "reason": self.reason,
            "counts": self._counts(counts),
            "memory_slope": _slope([(row["at"], row["memory"]) for row in rows if "memory" in row]),
        }

    def _counts(self, counts: Mapping[str, int]) -> dict[str, dict[str, float]]:
        if len(self._samples) < 2:
            return {}
        first, last = self._samples[0][1], self._samples[-1][1]
        names = {"chars": "charstream_generated_chars", "finished": "charstream_finished_total"}
        return {
            shown: {"server": _growth(first, last, name), "client": counts.get(shown, 0)}
            for shown, name in names.items()
        }


def _growth(old: Mapping[str, float], new: Mapping[str, float], name: str) -> float:
    return max(0.0, new.get(name, 0.0) - old.get(name, 0.0))


def _slope(points: list[tuple[float, float]]) -> float | None:
    """Return the growth of memory in MB a minute, by least squares over the last four fifths of the run."""
    points = points[len(points) // 5 :]
    if len(points) < 3:
        return None
    middle_at, middle = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((at - middle_at) ** 2 for at, _ in points)
    slope = sum((at - middle_at) * (value - middle) for at, value in points) / spread if spread else 0.0
    return slope * 60 / 2**20
