"""The figures of a run, their table, and the thresholds that they miss."""

from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.settings import Thresholds

__all__ = ["Spread", "Summary", "missed_thresholds", "table"]


@dataclass(frozen=True)
class Spread:
    """The spread of one measure over all streams, in milliseconds."""

    p50: float
    p99: float
    most: float


@dataclass(frozen=True)
class Summary:
    """The figures of one run; `chars` includes the characters of streams that the end of the run cut off."""

    seconds: float
    chars: int
    finished: int
    failed: int
    cut_off: int
    errors: Mapping[str, int]  # message -> how often
    first_char: Spread
    gap_median: Spread  # the spread of the streams' median gaps
    gap_p99: Spread  # the spread of the streams' 99th percentile gaps
    total: Spread

    @property
    def chars_per_second(self) -> float:
        return self.chars / self.seconds if self.seconds else 0.0


def table(summary: Summary) -> str:
    """Return a few lines for people, without a newline at their end."""
    spreads = [
        ("first character", summary.first_char),
        ("gap, median of a stream", summary.gap_median),
        ("gap, p99 of a stream", summary.gap_p99),
        ("whole call", summary.total),
    ]
    return "\n".join(
        [
            f"streams     {summary.finished:,} finished, {summary.failed:,} failed, "
            f"{summary.cut_off:,} cut off by the end of the run",
            f"characters  {summary.chars:,} in {summary.seconds:.1f} s: {summary.chars_per_second:,.0f} chars/s",
            "",
            f"{'ms':24}{'p50':>10}{'p99':>10}{'max':>10}",
            *(f"{name:24}{_ms(row.p50)}{_ms(row.p99)}{_ms(row.most)}" for name, row in spreads),
            *(f"\nfailed {count:,}x: {message}" for message, count in summary.errors.items()),
        ]
    )


def missed_thresholds(summary: Summary, thresholds: Thresholds) -> list[str]:
    """Return a line for each threshold that the run missed; a run in which no stream finished has missed, too."""
    lines = []
    if not summary.finished:
        lines.append("no stream finished")
    if summary.failed > thresholds.max_failures:
        lines.append(f"--max-failures: {summary.failed:,} streams failed, {thresholds.max_failures:,} may")
    for flag, value, limit in [
        ("--max-first-char-p99", summary.first_char.p99, thresholds.max_first_char_p99),
        ("--max-gap-p99", summary.gap_p99.p99, thresholds.max_gap_p99),
    ]:
        if limit is not None and value > limit:
            lines.append(f"{flag}: {value:.3g} ms, at most {limit:g} are allowed")
    least = thresholds.min_chars_per_second
    if least is not None and summary.chars_per_second < least:
        lines.append(f"--min-chars-per-second: {summary.chars_per_second:,.0f}, at least {least:,g} are needed")
    return lines


def _ms(value: float) -> str:
    return f"{value:10.2f}" if value < 100 else f"{value:10.0f}"
