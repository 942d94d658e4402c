"""`charstream check`: makes the checks, says what they found, and leaves plots and check.json."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from charstream.settings import fail, parse
from models.atomic_files import whole
from models.check.opening import open_subject
from models.check.outcome import REPORT, Checked, Report, Verdict
from models.check.registry import CHECKS
from models.check.settings import CheckSettings
from models.check.subject import Subject
from models.data.text_files import CorpusError
from models.progress import say
from models.reporting.style import save
from models.training.checkpoint import CheckpointError
from models.training.precision import CannotCompute

__all__ = ["main"]

COMMAND = "charstream check"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: nothing failed; 1: a check did; 2: wrong usage."""
    settings = parse(CheckSettings, argv, command=COMMAND)
    try:
        with _one_thread():
            report = _report(settings, open_subject(settings))
    except (CorpusError, CheckpointError, CannotCompute) as error:
        fail(COMMAND, str(error))
    if settings.json_:
        print(json.dumps(report.to_json()))
    else:
        print(", ".join(f"{report.count(verdict)} {verdict}" for verdict in Verdict), f"- plots in {settings.folder}")
    return int(report.verdict == Verdict.FAILED)


def _report(settings: CheckSettings, subject: Subject) -> Report:
    checked: list[Checked] = []
    run = str(settings.run) if settings.run else None
    for name in [name for name in CHECKS if name in (settings.only or CHECKS)]:
        checked.append(_made(name, subject, settings.folder))
        _tell(checked[-1], to_stdout=not settings.json_)
    report = Report(run, subject.config.model_dump(), tuple(checked))
    with whole(settings.folder / REPORT) as new:
        new.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    return report


def _made(name: str, subject: Subject, folder: Path) -> Checked:
    title, make = CHECKS[name]
    say(f"{title} ...")
    began = time.monotonic()
    outcome = make(subject)
    plot = f"{name}.png" if outcome.draw else None
    folder.mkdir(parents=True, exist_ok=True)
    if outcome.draw:
        save(outcome.draw(), folder / f"{name}.png")
    return Checked(name, title, outcome, time.monotonic() - began, plot)


def _tell(checked: Checked, *, to_stdout: bool) -> None:
    for verdict, text in checked.outcome.findings:
        line = f"{verdict:8}{checked.name:12}{text}"
        print(line, flush=True) if to_stdout else say(line)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small steps gain nothing by more threads, and lose much where other work runs; a trainer takes what it needs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    sys.exit(main())
