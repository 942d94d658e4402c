"""The table of a run, and the limits that it misses."""

from collections.abc import Mapping
from typing import Any

from loadtest.measures.gates import Gate
from loadtest.measures.record import MEASURES
from loadtest.settings import Thresholds

__all__ = ["missed_thresholds", "table"]

# A run's document: see loadtest/measures/document.py.
Run = Mapping[str, Any]


def table(run: Run) -> str:
    """Return a few lines for people, without a newline at their end."""
    figures, counts, lines = run["figures"], run["counts"], [f"note        {note}" for note in run.get("notes", ())]
    cut_off, abandoned = counts.get("cut off", 0), counts.get("abandoned", 0)
    lines += [
        f"streams     {figures['finished']:,} finished, {figures['failed']:,} failed, "
        + (f"{abandoned:,} abandoned on purpose, " if abandoned else "")
        + f"{cut_off:,} cut off by the end of the run",
        f"characters  {counts.get('chars', 0):,} in {run['seconds']:.1f} s: {figures['chars-per-second']:,.0f} chars/s",
    ]
    if figures["goodput"] is not None:
        lines.append(
            f"goodput     {figures['goodput']:.2%} of the streams kept {run['goodput']}: "
            f"{figures['good-per-second']:,.1f} streams/s"
        )
    if figures["unsent"]:
        lines.append(f"unsent      {figures['unsent']:,} streams: too many were in flight")
    lines += _checks(run["checks"])
    lines += ["", *_rows(run["measures"])]
    lines += _kinds(run["kinds"])
    lines += [f"\nfailed {error['count']:,}x: {error['reason']}" for error in run["errors"]]
    return "\n".join(lines)


def _checks(checks: Mapping[str, Any]) -> list[str]:
    if not checks.get("checked"):
        return []
    verdict = f"{checks['differing']:,} DIFFERED" if checks["differing"] else "all the same"
    lines = [
        f"texts       {checks['checked']:,} were asked for again, {checks['alone']:,} of them recorded alone: {verdict}"
    ]
    return lines + [f"            {line}" for line in checks["differences"]]


def _rows(measures: Mapping[str, Mapping[str, float]]) -> list[str]:
    titles = {name: f"{MEASURES[name].title}, {MEASURES[name].unit}" for name in measures}
    width = max(32, *map(len, titles.values())) if titles else 32
    head = f"{'':{width}}{'p50':>10}{'p99':>10}{'max':>10}"
    return [
        head,
        *(
            f"{titles[name]:{width}}{_cell(row['p50'])}{_cell(row['p99'])}{_cell(row['max'])}"
            for name, row in measures.items()
        ),
    ]


def _kinds(kinds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if len(kinds) < 2:
        return []
    names = ("finished", "failed", "abandoned", "cut off")
    head = f"\n{'calls':24}" + "".join(f"{name:>11}" for name in names) + f"{'whole, p50 ms':>16}"
    rows = [head]
    for name, counts in sorted(kinds.items()):
        row = "".join(f"{counts.get(each, 0):>11,}" for each in names)
        rows.append(f"{name:24}{row}{_cell(counts['whole']['p50']) if counts.get('whole') else '-':>16}")
    return rows


def missed_thresholds(run: Run, thresholds: Thresholds) -> list[str]:
    """Return a line for each limit that the run missed. A run in which no stream finished, or a text was wrong, has
    missed, too."""
    figures, lines = run["figures"], []
    if not figures["finished"]:
        lines.append("no stream finished")
    if figures["differing"]:
        lines.append(f"{figures['differing']:,} texts were not the same as before: {run['checks']['differences'][0]}")
    if figures["failed"] > thresholds.max_failures:
        lines.append(f"--max-failures: {figures['failed']:,} streams failed, {thresholds.max_failures:,} may")
    for flag, measure, limit in [
        ("--max-first-char-p99", "first", thresholds.max_first_char_p99),
        ("--max-gap-p99", "gap-p99", thresholds.max_gap_p99),
    ]:
        value = run["measures"].get(measure, {}).get("p99")
        if limit is not None and value is not None and value > limit:
            lines.append(f"{flag}: {value:.3g} ms, at most {limit:g} are allowed")
    least = thresholds.min_chars_per_second
    if least is not None and figures["chars-per-second"] < least:
        lines.append(f"--min-chars-per-second: {figures['chars-per-second']:,.0f}, at least {least:,g} are needed")
    gates = (Gate.parse(text).complaint(run) for text in thresholds.require)
    return lines + [line for line in gates if line]


def _cell(value: float) -> str:
    return f"{value:10.2f}" if value < 100 else f"{value:10,.0f}"
