"""`charstream check`: makes the checks, prints their findings, and leaves plots and check.json."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from charstream.settings import fail, parse
from models.atomic_files import write_json
from models.check.checks import activations, differences, gap, initial_loss, overfit, rate, reach, updates
from models.check.outcome import CheckResult, Outcome, Report, Verdict, warning
from models.check.settings import CheckSettings
from models.check.subject import Subject
from models.data.corpus import NAMED, Corpus, open_corpus, require_same_text
from models.data.text_files import CorpusError
from models.network.config import ModelConfig
from models.reporting.report import write_report
from models.reporting.style import save
from models.run_folder import CHECK_REPORT, PAGE
from models.terminal import count_noun, say
from models.training.checkpoint import CheckpointError, Header, load, read
from models.training.precision import CannotCompute
from models.training.settings import TrainSettings

__all__ = ["CHECKS", "main"]

COMMAND = "charstream check"
LEAST_CHARS = 100  # to train on: with fewer the figures would mean nothing
# Settings for how long a run is and where it goes are not taken from a run: --minutes would stand against --steps.
_OF_A_RUN = {"out", "minutes", "characters", "resume", "overwrite", "tensorboard", "profile", "json_"}
_OF_THE_CALL = CheckSettings.model_fields.keys() - TrainSettings.model_fields.keys() | _OF_A_RUN


# Checks that read no text. With one symbol the loss is 0 whatever the model does, and the others cannot measure.
_OF_NO_TEXT = {"gradients"}
_OF_ONE_SYMBOL = Outcome(
    (warning("not measured: the text has one symbol alone, so its loss is 0 whatever the model learns"),), {}, None
)


class Check(NamedTuple):
    """A check: its title, and the function that makes it."""

    title: str
    make: Callable[[Subject], Outcome]


# By name, in the order in which they are made: cheap ones first, those that build on others last.
CHECKS: dict[str, Check] = {
    "loss": Check("Loss before training", initial_loss.check),
    "activations": Check("Sums before the nonlinearities", activations.check),
    "gradients": Check("Gradients against central differences", differences.check),
    "overfit": Check("Twenty lines learnt by heart", overfit.check),
    "rate": Check("Learning-rate range test", rate.check),
    "updates": Check("Updates relative to weights", updates.check),
    "gap": Check("Training and validation loss", gap.check),
    "reach": Check("How far back gradients reach", reach.check),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Make the checks. Exit code 0: none failed; 1: one did; 2: wrong usage."""
    settings = parse(CheckSettings, argv, command=COMMAND)
    try:
        with _one_thread():
            subject = open_subject(settings)
            if subject.settings.distill_from:
                say("--distill-from is left out: what is checked learns from the text alone")
            report = _make_checks(settings, subject)
    except (CorpusError, CheckpointError, CannotCompute) as error:
        fail(COMMAND, str(error))
    if settings.run and (settings.run / PAGE).exists():
        write_report(settings.run)  # which has the checks now
    if settings.json_:
        print(json.dumps(report.to_json()))
    else:
        verdicts = ", ".join(f"{report.count(verdict)} {verdict}" for verdict in Verdict)
        print(f"{count_noun(len(report.checks), 'check')}: {verdicts} - plots in {settings.folder}")
    return int(report.verdict == Verdict.FAILED)


def open_subject(given: CheckSettings) -> Subject:
    """Read the run, if there is one, and the text.

    Raises:
        CheckpointError: no run is there, or its model differs from the flags.
        CorpusError: no text is there, or one that does not fit.
    """
    if given.run is None:
        settings = _as_train_settings({}, given)
        corpus = _open_text(settings)
        return Subject(settings, corpus, settings.model_of(len(corpus.vocabulary)))
    header, _ = read(given.run)
    _require_same_model(given, header)
    kept = {} if header.settings is None else header.settings.model_dump(exclude=_OF_A_RUN | {"steps"})
    settings = _as_train_settings(kept, given)
    corpus = _open_text(settings)
    if not given.data:
        require_same_text(corpus, header.training.data_sha256)
    if corpus.vocabulary != header.vocabulary:
        raise CorpusError(f"{corpus.path} has other characters than the text of {given.run}: give that one by --data")
    return Subject(settings, corpus, header.model, given.run, load(given.run).model)


def _as_train_settings(kept: dict[str, object], given: CheckSettings) -> TrainSettings:
    """Override kept settings by those given; `out` does not matter, as no run is written."""
    changes = given.model_dump(include=given.model_fields_set - _OF_THE_CALL)
    return TrainSettings.model_validate({**kept, **changes, "out": Path()})


def _require_same_model(given: CheckSettings, header: Header) -> None:
    for name in given.model_fields_set & ModelConfig.model_fields.keys():
        wanted, there = getattr(given, name), getattr(header.model, name)
        if wanted != there:
            raise CheckpointError(
                f"{given.run} has {name.replace('_', '-')} {there}, not {wanted}: leave it out, or check without a run"
            )


def _open_text(settings: TrainSettings) -> Corpus:
    if not settings.data:
        raise CorpusError(f"--data is missing: {', '.join(NAMED)}, a text file, a folder of .txt files, or a URL")
    corpus = open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split, form=settings.text_form)
    if len(corpus.training) < LEAST_CHARS:
        raise CorpusError(
            f"{corpus.path}: {len(corpus.training)} characters to train on are too few to check, "
            f"at least {LEAST_CHARS} are needed"
        )
    return corpus


def _make_checks(settings: CheckSettings, subject: Subject) -> Report:
    results: list[CheckResult] = []
    for name in [name for name in CHECKS if name in (settings.only or CHECKS)]:
        results.append(_make(name, subject, settings.folder))
        _print_findings(results[-1], to_stdout=not settings.json_)
    report = Report(str(settings.run) if settings.run else None, subject.config.model_dump(), tuple(results))
    write_json(settings.folder / CHECK_REPORT, report.to_json())
    return report


def _make(name: str, subject: Subject, folder: Path) -> CheckResult:
    title, make = CHECKS[name]
    say(f"{title} ...")
    began = time.monotonic()
    outcome = _OF_ONE_SYMBOL if subject.config.vocab == 1 and name not in _OF_NO_TEXT else make(subject)
    plot = f"{name}.png" if outcome.draw else None
    folder.mkdir(parents=True, exist_ok=True)
    if outcome.draw:
        save(outcome.draw(), folder / f"{name}.png")
    return CheckResult(name, title, outcome, time.monotonic() - began, plot)


def _print_findings(result: CheckResult, *, to_stdout: bool) -> None:
    for verdict, text in result.outcome.findings:
        line = f"{verdict:8}{result.name:12}{text}"
        print(line, flush=True) if to_stdout else say(line)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: more do not speed up small steps, and slow them where other work runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    sys.exit(main())
