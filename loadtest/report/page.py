"""The page of a result: one file, no network, light and dark."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from loadtest.live import count_users
from loadtest.measures.document import Document
from loadtest.measures.gates import STATISTICS
from loadtest.measures.record import MEASURES
from loadtest.report.figures import loads_of
from loadtest.report.style import Plot

__all__ = ["page"]

Run = Mapping[str, Any]
TITLES = {"run": "Load test", "sweep": "Sweep", "find": "Capacity", "quick": "Quick look"}
OPEN_NOTE = (
    "An open loop: streams begin by the clock, and times count from when a stream should have begun. A server that "
    "stalls makes all that come meanwhile late, and that shows."
)
CLOSED_NOTE = (
    "A closed loop: a user asks for its next text when it has the last one. While a server stalls nobody asks, so a "
    "stall shows in few streams only (coordinated omission); "
    "<code>--scenario open</code> shows what other callers would see."
)


def page(content: Document, plots: Sequence[Plot]) -> str:
    template = files("loadtest.report").joinpath("page.html").read_text(encoding="utf-8")
    title = TITLES.get(content["answer"], "Load test")
    return Template(template).substitute(title=title, body="\n".join(_parts(content, plots, title)))


def _parts(content: Document, plots: Sequence[Plot], title: str) -> Iterable[str]:
    runs, last = content["runs"], content["runs"][-1]
    yield f"<h1>{title}</h1><p class=lead>{escape(_lead(content))}</p>"
    for note in dict.fromkeys(note for run in runs for note in run["notes"]):
        yield f"<p class=note>{escape(note)}</p>"
    yield _verdict(last, content["finding"])
    if len(runs) > 1:
        yield _section("Runs", _runs(runs))
    for plot in plots:
        yield _section(plot.title, f"<p>{escape(plot.caption)}</p><div class=plot>{plot.svg()}</div>")
    which = " of the last run" if len(runs) > 1 else ""
    yield _section(f"Measures{which}", _measures(last) + f"<p>{OPEN_NOTE if _is_open(last) else CLOSED_NOTE}</p>")
    yield _section("Kinds of calls", _kinds(last["kinds"]))
    yield _section("Errors", _errors(last["errors"]))
    yield _section("Texts", _checks(last["checks"]))
    yield _section("Server and client", _server(last["server"]))
    yield _section("Settings", _pairs(_settings(last)))
    yield _section("Where it was measured", _pairs(_origin(content["origin"])))


def _lead(content: Document) -> str:
    run, model = content["runs"][-1], content["origin"].get("model") or {}
    facts = [f"{run['scenario']['scenario']}, {_load(run)}, {run['seconds']:g} s counted"]
    if model:
        facts.append(f"{model['name']}: {model['cell']} {model['layers']}x{model['hidden']}, {model['precision']}")
    return "; ".join([*facts, ", ".join(run["hosts"]), content["made"]])


def _load(run: Run) -> str:
    rate = run["scenario"]["rate"]
    return f"{rate:g} texts a second" if _is_open(run) and rate else count_users(run["users"])


def _is_open(run: Run) -> bool:
    return run["scenario"]["scenario"] in ("open", "replay")


def _verdict(run: Run, finding: Mapping[str, Any]) -> str:
    figures, cards = run["figures"], []
    if "capacity" in finding:
        cards.append((f"{finding['capacity']:,.4g}", f"{finding.get('unit', 'users')} with {finding['objectives'][0]}"))
    if "knee" in finding:
        cards.append((f"{finding['knee']:,.4g}", f"{finding['unit']} at the knee"))
    cards.append((f"{figures['chars-per-second']:,.0f}", "characters a second"))
    for name, title in (("first", "first character, p50 / p99 ms"), ("gap", "gap, p50 / p99 ms")):
        if row := run["measures"].get(name):
            cards.append((f"{row['p50']:.3g} / {row['p99']:.3g}", title))
    if figures["goodput"] is not None:
        cards.append((f"{figures['goodput']:.1%}", f"of the streams kept {run['goodput']}"))
    cards.append((f"{figures['failed']:,}", f"failed, of {figures['finished'] + figures['failed']:,} streams"))
    shown = "".join(f"<div><b>{escape(value)}</b><span>{escape(title)}</span></div>" for value, title in cards)
    return f"<div class=cards>{shown}</div>"


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}" if content else ""


def _runs(runs: Sequence[Run]) -> str:
    names = ("chars-per-second", "finished", "failed", "goodput")
    measures = ("first.p50", "first.p99", "gap.p50", "gap.p99", "whole.p50")
    head = ["load" if loads_of(runs) else "run", "seconds", *names, *(f"{name} ms" for name in measures)]
    rows = []
    for number, run in enumerate(runs, 1):
        cells: list[Any] = [run.get("load", number), run["seconds"], *(run["figures"][name] for name in names)]
        cells += [run["measures"].get(measure, {}).get(p) for measure, p in (name.split(".") for name in measures)]
        rows.append([_number(cell) for cell in cells])
    return _table(head, rows, first_is_text=False)


def _measures(run: Run) -> str:
    rows = [
        [MEASURES[name].title, MEASURES[name].unit, f"{row['count']:,}", *(_number(row.get(s)) for s in STATISTICS)]
        for name, row in run["measures"].items()
    ]
    legend = "".join(
        f"<tr><td>{escape(MEASURES[name].title)}</td><td>{escape(MEASURES[name].formula)}</td></tr>"
        for name in run["measures"]
    )
    names = " or ".join(f"<code>{name}</code>" for name in run["measures"])
    return (
        _table(["", "unit", "count", *STATISTICS], rows)
        + f"<details open><summary>How each is computed</summary><table class=words>{legend}</table>"
        f"<p>Percentiles are of the nearest rank, kept to 0.01 ms and three digits. In --require and --goodput "
        f"they are called {names}.</p></details>"
    )


def _kinds(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    if len(kinds) < 2:
        return ""
    names = ("finished", "failed", "abandoned", "cut off", "chars")
    rows = [
        [
            name,
            *(f"{counts.get(each, 0):,}" for each in names),
            *(_number(counts["whole"].get(p)) for p in ("p50", "p99")),
        ]
        for name, counts in sorted(kinds.items())
    ]
    return _table(["", *names, "whole p50 ms", "whole p99 ms"], rows)


def _errors(errors: Sequence[Mapping[str, Any]]) -> str:
    rows = [[error["status"], f"{error['count']:,}", error["reason"]] for error in errors]
    return _table(["status", "count", "reason"], rows) if rows else ""


def _checks(checks: Mapping[str, Any]) -> str:
    if not checks.get("checked"):
        return "<p>No text was compared.</p>"
    verdict = f"<b>{checks['differing']:,} differed</b>" if checks["differing"] else "all were the same"
    lines = "".join(f"<pre>{escape(line)}</pre>" for line in checks["differences"])
    return (
        f"<p>{checks['checked']:,} texts were asked for again under load, {checks['alone']:,} of them recorded alone "
        f"before it: {verdict}.</p>{lines}"
    )


def _server(server: Mapping[str, Any] | None) -> str:
    if not server or not server["counts"]:
        return ""
    rows = [[name, f"{both['server']:,.0f}", f"{both['client']:,.0f}"] for name, both in server["counts"].items()]
    slope = server["memory_slope"]
    grows = "" if slope is None else f"<p>Its memory grew by {slope:.2f} MB a minute in the last four fifths.</p>"
    why = "<p>Of the whole run. The server also counts what it had generated when the end cut a stream off.</p>"
    return _table(["counted by", "the server", "the client"], rows) + why + grows


def _settings(run: Run) -> Mapping[str, Any]:
    generator = run["generator"]
    cost = f"{generator['cores']:.2f} cores, {generator['us_per_message']:.0f} us a message"
    limit = generator.get("null_messages_per_second")
    cost += f"; of a server that costs nothing it takes {limit:,.0f} messages/s" if limit else ""
    return {
        **{name: value for name, value in run["scenario"].items() if value not in (None, "", [])},
        "users": run["users"],
        "processes": run["processes"],
        "warm-up, s": run["warmup"],
        "the load cost": cost,
    }


def _origin(origin: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        **{f"model: {name}": value for name, value in (origin.get("model") or {}).items()},
        "load from": f"{origin['processor']}, {origin['cores']} cores",
        "instruction sets": ", ".join(origin["instructions"]),
        **origin["versions"],
    }


def _pairs(pairs: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{escape(_words(value))}</td></tr>"
        for name, value in pairs.items()
    )
    return f"<table class=words>{rows}</table>"


def _words(value: Any) -> str:
    return ", ".join(map(repr, value)) if isinstance(value, list) else str(value)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:,.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, first_is_text: bool = True) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        shown = (
            f"<{tag}{'' if first_is_text and place == 0 else ' class=number'}>{escape(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(shown)}</tr>"

    return f"<div class=wide><table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table></div>"
