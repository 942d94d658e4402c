"""Does every option work, and with every other? Each row of a table is a model that is trained with its options,
exported, verified, and streamed from a server.

    python -m benchmarks.correctness.options [--only ROW] [--processes 2]

Every structure of a layer (the cells, and each activation of an rnn in both forms) comes at least once; every two
values of the other options meet in some row, but for pairs that make no sense and are named. A row must come below the
entropy of its validation text's symbols: it must learn from more than how frequent each is. One row begins with zeros,
and must not. What depends on the machine (bfloat16, devices) is not in it. The text is generated. The table goes to
stdout; exit code 1 if a row missed something.
"""

import io
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from benchmarks.correctness.options_rows import DIVERGING, LEFT_OUT, Row, rows
from benchmarks.support.served import serving
from bundle.write import write_bundle
from charstream.settings import Settings, fail, parse
from client import CharstreamError, Client
from export.build import USUAL, build
from export.verification.compare import verify
from models.data.corpus import open_corpus
from models.network.generate import generate
from models.terminal import say, table
from models.train import train_model
from models.training.checkpoint import load

__all__ = ["Outcome", "attempt", "main", "streamed", "write_text"]

COMMAND = "python -m benchmarks.correctness.options"
WORDS = ("the", "sea", "is", "low", "tonight", "and", "cafés", "close", "at", "one", "señor")
TEXT_WORDS = 6000
CHARS, SEED = 100, 7  # of a streamed text


class OptionsSettings(Settings):
    """Trains, exports, verifies and serves a model for each row of a table of options."""

    only: tuple[str, ...] = Field((), description="this row and no other")
    processes: int = Field(0, ge=0, description="rows at a time, each in one thread; 0: as many as cores")


@dataclass(frozen=True)
class Outcome:
    """What became of a row.

    Attributes:
        nats, entropy: loss on the validation text, and the entropy of its symbols.
        precisions: exported.
        verified: whether ONNX Runtime computes what torch does.
        expected: what torch writes.
        streamed: whether the server's text is the same.
        seconds: all of it but for the server, processor time.
        failure: what went wrong, one line.
    """

    row: Row
    nats: float = float("nan")
    entropy: float = float("nan")
    precisions: tuple[str, ...] = ()
    verified: bool = False
    expected: str = ""
    streamed: bool = False
    seconds: float = 0.0
    failure: str = ""

    @property
    def learned(self) -> bool:
        return self.nats < self.entropy

    @property
    def passed(self) -> bool:
        as_expected = self.learned != self.row.fails and np.isfinite(self.nats)
        return bool(as_expected and self.precisions and self.verified and self.streamed and not self.failure)

    @property
    def cells(self) -> list[str]:
        """Of the table."""
        done = ("+".join(self.precisions) or "no", _yes(self.verified), _yes(self.streamed))
        return [str(self.row), f"{self.nats:.3f}", f"{self.entropy:.3f}", *done]


def write_text(path: Path) -> None:
    """Lines of a few words, some 30,000 characters; some are two bytes long."""
    rng = random.Random(0)
    path.write_text("".join(rng.choice(WORDS) + rng.choice("   \n") for _ in range(TEXT_WORDS)), "utf-8")


def attempt(row: Row, data: Path, folder: Path) -> Outcome:
    """Trains, exports and verifies; leaves a bundle in the folder's `models`."""
    outcome, began = Outcome(row), time.process_time()
    try:
        with redirect_stderr(io.StringIO()):
            for outcome in _stages(row, data, folder):  # noqa: B007 (the last one is the outcome)
                pass
    except Exception as error:  # whatever it is, the other rows go on, and the table tells it
        outcome = replace(outcome, failure=f"{type(error).__name__}: {error}".splitlines()[0])
    return replace(outcome, seconds=time.process_time() - began)


def _stages(row: Row, data: Path, folder: Path) -> Iterator[Outcome]:
    """The outcome so far, after each thing that is done."""
    run = folder / "runs" / row.name
    settings = row.settings(data, run)
    nats = train_model(settings)["carried_nats"]
    entropy = entropy_of(open_corpus(str(data), vocabulary=settings.vocabulary).validation)
    yield (outcome := Outcome(row, nats, entropy))
    trained = load(run)
    manifest, files = build(trained, row.name, "1", USUAL[: 1 + row.int8])
    yield (outcome := replace(outcome, precisions=manifest.precisions))
    verified = all(found.has_passed for found in verify(manifest, files, trained.model))
    write_bundle(folder / "models" / row.name, manifest, files)
    expected = generate(trained.model, trained.vocabulary, trained.start_text, "", CHARS, seed=SEED)
    yield replace(outcome, verified=verified, expected=expected)


def entropy_of(ids: NDArray[np.integer]) -> float:
    """Of how frequent each symbol is, nats: no model that knows only that has a lower loss on this text."""
    counts = np.bincount(ids)
    shares = counts[counts > 0] / len(ids)
    return float(-(shares * np.log(shares)).sum())


def streamed(outcome: Outcome, client: Client) -> Outcome:
    """Asks a server for the text that torch wrote."""
    if not outcome.expected:
        return outcome
    try:
        stream = client.stream("", model=outcome.row.name, max_chars=CHARS, seed=SEED)
        text = "".join(stream)
    except CharstreamError as error:
        return replace(outcome, failure=f"{type(error).__name__}: {error}".splitlines()[0])
    if outcome.row.options["vocabulary"] == "bytes":
        text = stream.raw.decode("utf-8", "replace")
    return replace(outcome, streamed=text == outcome.expected)


def _attempted(chosen: Sequence[Row], folder: Path, processes: int) -> Iterator[Outcome]:
    """As they come, in processes of one thread each."""
    write_text(data := folder / "text.txt")
    os.environ["CHARSTREAM_CACHE"] = str(folder / "cache")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
        waiting = [pool.submit(attempt, row, data, folder) for row in chosen]
        for done, future in enumerate(as_completed(waiting), 1):
            outcome = future.result()
            say(f"{done} of {len(chosen)}: {_told(outcome)}")
            yield outcome


def _served(outcomes: Sequence[Outcome], models: Path) -> list[Outcome]:
    """One server has all bundles, and loads each when it is asked for."""
    if not any(outcome.expected for outcome in outcomes):
        return list(outcomes)
    with (
        serving(models, "--load", "lazy", "--precision", "fp32", "--threads", "1", "--no-log-calls") as server,
        Client(server.address) as client,
    ):
        return [streamed(outcome, client) for outcome in outcomes]


def _told(outcome: Outcome) -> str:
    facts = f"{outcome.row.name} {outcome.nats:.3f} nats, {outcome.entropy:.3f} entropy"
    return f"{facts}, {outcome.seconds:.0f} s{f', {outcome.failure}' if outcome.failure else ''}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _print(outcomes: Sequence[Outcome], seconds: float) -> None:
    head = ("row, structure and options", "nats", "entropy", "exported", "verified", "streamed")
    print(table(head, [outcome.cells for outcome in outcomes]))
    for pair, reason in LEFT_OUT.items():
        print(f"left out: {' with '.join(sorted(f'{name} {value}' for name, value in pair))}: {reason}")
    for phi, inits in DIVERGING.items():
        print(f"left out: {phi} with init {', '.join(inits)}: its state has no bound, and grows in each step")
    missed = [outcome for outcome in outcomes if not outcome.passed]
    for outcome in missed:
        print(f"missed: {outcome.row.name} {outcome.failure}".rstrip())
    print(f"{len(outcomes)} rows, {len(missed)} missed, {seconds:.0f} s")


def main(argv: Sequence[str] | None = None) -> int:
    settings, began = parse(OptionsSettings, argv, command=COMMAND), time.monotonic()
    every = {row.name: row for row in rows()}
    if unknown := [name for name in settings.only if name not in every]:
        fail(COMMAND, f"--only {unknown[0]}: rows are {', '.join(every)}")
    chosen = [every[name] for name in settings.only or every]
    processes = settings.processes or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        outcomes = sorted(_attempted(chosen, Path(name), processes), key=lambda outcome: chosen.index(outcome.row))
        outcomes = _served(outcomes, Path(name) / "models")
    _print(outcomes, time.monotonic() - began)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
