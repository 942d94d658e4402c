"""`charstream report`: writes a page about a run, in one file that needs no network."""

import base64
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError

from charstream.settings import Positional, Settings, fail, parse
from charstream.versions import installed_versions, processor
from models.atomic_files import replacement
from models.reporting.curve_figure import curve_figure
from models.reporting.curves import RunCurves, RunError, read_curves
from models.reporting.style import DOTS_PER_INCH, png
from models.run_folder import CHECK_REPORT, CHECKS, PAGE
from models.terminal import say
from models.training.settings import TrainSettings, add_defaults, overrides, train_command

__all__ = ["ReportSettings", "main", "make_report", "write_report"]

COMMAND = "charstream report"
_SAMPLES = 6  # at most
_LARGEST_EXPONENT = 709  # of e, in float64
_POINTS_PER_INCH = 108  # on the page; at the 96 of CSS the letters in plots are smaller than the text's


class ReportSettings(Settings):
    """Writes report.html into a run's folder: configuration, curves, samples, checks, evaluation, in one file.

    `charstream train` does it at its end, and `charstream check RUN` again, with what it found.
    """

    run: Annotated[Path, Positional()] = Field(description="a run's folder")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ReportSettings, argv, command=COMMAND)
    try:
        print(make_report(settings.run))
    except RunError as error:
        fail(COMMAND, str(error))
    return 0


def write_report(folder: Path) -> Path | None:
    """Write the page as `make_report` does; if that fails, write a line to stderr and return None."""
    try:
        return make_report(folder)
    except Exception as error:  # whatever it is, a run of hours must not end with it
        say(f"{folder / PAGE} could not be written: {error}")
        return None


def make_report(folder: Path) -> Path:
    """Write RUN/report.html from the files in the run's folder, and return its path. Raises RunError, OSError."""
    run = read_curves(folder)
    template = files("models.reporting").joinpath("report.html").read_text(encoding="utf-8")
    page = folder / PAGE
    text = Template(template).substitute(title=escape(run.name), body=_body(run))
    with replacement(page) as new:
        new.write_text(text, encoding="utf-8", errors="replace")
    return page


def _body(run: RunCurves) -> str:
    parts = [
        f"<h1>{escape(run.name)}</h1>\n<p class=lead>{escape(_lead(run))}</p>",
        _section("Evaluation", _evaluation(run)),
        _section("Loss", _image(png(curve_figure([run])), f"loss curves of {run.name}") if run.has_loss else ""),
        _section("What it writes", _samples(run)),
        _section("Checks", _checks(run.folder / CHECKS)),
        _section("Configuration", _configuration(run)),
        f"<footer>{escape(_origin())}</footer>",
    ]
    return "\n".join(part for part in parts if part)


def _origin() -> str:
    """Return when, with what and where the page is written; `charstream train` does so when a run ends."""
    installed = {"charstream": "", "Python": platform.python_version(), **installed_versions("charstream", "torch")}
    versions = ", ".join(f"{name} {number}".strip() for name, number in installed.items())
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"charstream report, {now}; {versions}; {processor()}, {os.cpu_count()} cores{gpu}"


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}" if content else ""


def _lead(run: RunCurves) -> str:
    model, training = run.header.get("model", {}), run.header.get("training", {})
    facts = []
    if model:
        facts.append(f"{str(model.get('cell', '')).upper()}, {model.get('layers')} x {model.get('hidden')} units")
    if run.parameters is not None:
        facts.append(f"{run.parameters:,} parameters")
    if training:
        facts.append(f"trained on {training.get('data')}")
    facts.append(f"{run.steps:,} steps, {run.steps * run.chars_per_step:,} {run.unit}s, {run.seconds:,.0f} s")
    return "; ".join(facts)


def _evaluation(run: RunCurves) -> str:
    """Return a table of the losses, in nats, bits and perplexity."""
    rows = [
        ("training, the last steps", run.last("loss")),
        ("validation, a sample, the last", run.last("validation")),
        ("validation, a sample, the best", min(run.series("validation").values, default=None)),
        ("validation, all of it, by the best checkpoint", run.last("carried")),
    ]
    lines = [f"<tr><td>{name}</td>{_units(nats)}</tr>" for name, nats in rows if nats is not None]
    units = "".join(f"<th class=number>{unit}</th>" for unit in ("nats", "bits", "perplexity"))
    head = f"<th>loss per {run.unit}</th>{units}"
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>" if lines else ""


def _units(nats: float) -> str:
    perplexity = math.exp(nats) if nats < _LARGEST_EXPONENT else math.inf
    shown = (f"{nats:.4f}", f"{nats / math.log(2):.4f}", f"{perplexity:.3f}")
    return "".join(f"<td class=number>{text}</td>" for text in shown)


def _samples(run: RunCurves) -> str:
    chosen = _spread(run.samples, _SAMPLES)
    shown = [
        f"<figure><figcaption>{_when(step, run)}</figcaption><pre>{escape(text)}</pre></figure>"
        for step, text in chosen
    ]
    return f"<div class=samples>{''.join(shown)}</div>" if shown else ""


def _when(step: int, run: RunCurves) -> str:
    return "before training" if step == 0 else f"after {step:,} steps, {step * run.chars_per_step:,} {run.unit}s"


def _spread(items: Sequence[tuple[int, str]], count: int) -> Sequence[tuple[int, str]]:
    """Return the first item, the last, and evenly spread ones between."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _checks(folder: Path) -> str:
    """Return the findings and plots of the checks; empty if there are none, or their report is damaged."""
    try:
        checks = json.loads((folder / CHECK_REPORT).read_bytes())["checks"]
        return "\n".join(_check(folder, check) for check in checks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _check(folder: Path, check: Mapping[str, Any]) -> str:
    findings = "".join(
        f"<li><span class='verdict {escape(finding['verdict'])}'>{escape(finding['verdict'])}</span>"
        f"{escape(finding['text'])}</li>"
        for finding in check["findings"]
    )
    plot = folder / Path(check["plot"]).name if check["plot"] else None
    image = _image(plot.read_bytes(), check["title"]) if plot and plot.exists() else ""
    return f"<h3>{escape(check['title'])}</h3><ul class=findings>{findings}</ul>{image}"


def _configuration(run: RunCurves) -> str:
    """Return all settings, those in bold that differ from the preset's, and the command that gives them."""
    changed: Mapping[str, Any] = {}
    command = ""
    try:
        settings = TrainSettings.model_validate(add_defaults(run.settings))
    except (ValidationError, TypeError):  # of another version, or damaged
        pass
    else:
        changed = overrides(settings)
        command = f"<pre>{escape(train_command(settings))}</pre>"
    rows = [
        f"<tr{' class=changed' if name in changed else ''}><td>{name.rstrip('_').replace('_', ' ')}</td>"
        f"<td>{escape(_value(value))}</td></tr>"
        for name, value in run.settings.items()
    ]
    third = -(-len(rows) // 3)
    tables = [f"<table>{''.join(rows[i : i + third])}</table>" for i in range(0, len(rows), third or 1)]
    return f"{command}<div class=columns>{''.join(tables)}</div>" if rows else ""


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def _image(data: bytes, alternative: str) -> str:
    """Return a PNG as an element, at a width that makes its letters readable; bytes 16 to 19 hold its own width."""
    width = int.from_bytes(data[16:20], "big") * _POINTS_PER_INCH // DOTS_PER_INCH
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<img width="{width}" src="{source}" alt="{escape(alternative)}">'


if __name__ == "__main__":
    sys.exit(main())
