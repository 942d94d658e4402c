"""Train, export, verify and stream a model for each row of a table in which every option meets every other.

    python -m benchmarks.correctness.options [--only ROW] [--processes 2]

Every structure of a layer (the cells, and each activation of an rnn in both forms) occurs at least once; every two
values of the other options meet in some row, except for pairs that make no sense and are named. A row's loss must fall
below the entropy of its validation text's symbols: it must learn more than their frequencies. One row begins with
zeros, and must not. Settings that depend on the machine (bfloat16, devices) are left out. The text is generated. The
table goes to stdout; exit code 1 if a row missed something.
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from benchmarks.correctness.option_rows import DIVERGING, LEFT_OUT, Row, rows
from benchmarks.support.servers import serving
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

COMMAND = "python -m benchmarks.correctness.options"
WORDS = ("the", "sea", "is", "low", "tonight", "and", "cafés", "close", "at", "one", "señor")
TEXT_WORDS = 6000
CHARS, SEED = 100, 7  # of a streamed text


class OptionsSettings(Settings):
    """Train, export, verify and serve a model for each row of a table of options."""

    only: tuple[str, ...] = Field((), description="this row and no other")
    processes: int = Field(0, ge=0, description="rows at a time, each in one thread; 0: as many as cores")


@dataclass
class Outcome:
    """The results of one row.

    Attributes:
        nats, entropy: loss on the validation text, and the entropy of its symbols.
        precisions: those that were exported.
        verified: whether ONNX Runtime computes what torch does.
        expected: the text that torch writes.
        streamed: whether the server's text is the same.
        seconds: processor time of everything except the server.
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
    def has_passed(self) -> bool:
        as_expected = (self.nats < self.entropy) != self.row.must_fail and np.isfinite(self.nats)
        return bool(as_expected and self.precisions and self.verified and self.streamed and not self.failure)

    @property
    def cells(self) -> list[str]:
        """The row's cells in the printed table."""
        yes = ["yes" if value else "no" for value in (self.verified, self.streamed)]
        return [str(self.row), f"{self.nats:.3f}", f"{self.entropy:.3f}", "+".join(self.precisions) or "no", *yes]


def write_text(path: Path) -> None:
    """Write lines of a few words: about 30,000 characters, some of them two bytes long."""
    rng = random.Random(0)
    path.write_text("".join(rng.choice(WORDS) + rng.choice("   \n") for _ in range(TEXT_WORDS)), "utf-8")


def attempt(row: Row, data: Path, folder: Path) -> Outcome:
    """Train, export and verify a row's model; leave its bundle in the folder's `models`."""
    outcome, began = Outcome(row), time.process_time()
    try:
        with redirect_stderr(io.StringIO()):
            _train_and_export(outcome, data, folder)
    except Exception as error:  # the other rows go on, and the table tells it
        outcome.failure = _first_line(error)
    outcome.seconds = time.process_time() - began
    return outcome


def _train_and_export(outcome: Outcome, data: Path, folder: Path) -> None:
    row, run = outcome.row, folder / "runs" / outcome.row.name
    settings = row.settings(data, run)
    outcome.nats = train_model(settings)["carried_nats"]
    outcome.entropy = entropy_of(open_corpus(str(data), vocabulary=settings.vocabulary).validation)
    trained = load(run)
    manifest, files = build(trained, row.name, "1", USUAL[: 1 + row.int8])
    outcome.precisions = manifest.precisions
    outcome.verified = all(found.has_passed for found in verify(manifest, files, trained.model))
    write_bundle(folder / "models" / row.name, manifest, files)
    outcome.expected = generate(trained.model, trained.vocabulary, trained.start_text, "", CHARS, seed=SEED)


def entropy_of(ids: NDArray[np.integer]) -> float:
    """Return the entropy of the symbols' frequencies in nats; a model that knows only these has no lower loss."""
    counts = np.bincount(ids)
    shares = counts[counts > 0] / len(ids)
    return float(-(shares * np.log(shares)).sum())


def stream(outcome: Outcome, client: Client) -> None:
    """Ask a server for the text that torch wrote."""
    try:
        reader = client.stream("", model=outcome.row.name, max_chars=CHARS, seed=SEED)
        text = "".join(reader)
    except CharstreamError as error:
        outcome.failure = _first_line(error)
        return
    if outcome.row.options["vocabulary"] == "bytes":
        text = reader.raw.decode("utf-8", "replace")
    outcome.streamed = text == outcome.expected


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _attempt_all(chosen: Sequence[Row], folder: Path, processes: int) -> Iterator[Outcome]:
    """Yield outcomes as they come, from processes of one thread each."""
    write_text(data := folder / "text.txt")
    os.environ["CHARSTREAM_CACHE"] = str(folder / "cache")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
        waiting = [pool.submit(attempt, row, data, folder) for row in chosen]
        for done, future in enumerate(as_completed(waiting), 1):
            outcome = future.result()
            facts = f"{outcome.row.name} {outcome.nats:.3f} nats, {outcome.entropy:.3f} entropy"
            say(f"{done} of {len(chosen)}: {facts}, {outcome.seconds:.0f} s {outcome.failure}".rstrip())
            yield outcome


def _stream_all(outcomes: Sequence[Outcome], models: Path) -> None:
    """Let one server load each bundle when it is asked for."""
    exported = [outcome for outcome in outcomes if outcome.expected]
    flags = ("--load", "lazy", "--precision", "fp32", "--threads", "1", "--no-log-calls")
    if exported:
        with serving(models, *flags) as server, Client(server.address) as client:
            for outcome in exported:
                stream(outcome, client)


def _print(outcomes: Sequence[Outcome], seconds: float) -> None:
    head = ("row, structure and options", "nats", "entropy", "exported", "verified", "streamed")
    print(table(head, [outcome.cells for outcome in outcomes]))
    for pair, reason in LEFT_OUT.items():
        print(f"left out: {' with '.join(sorted(f'{name} {value}' for name, value in pair))}: {reason}")
    for phi, inits in DIVERGING.items():
        print(f"left out: {phi} with init {', '.join(inits)}: its state has no bound, and grows in each step")
    missed = [outcome for outcome in outcomes if not outcome.has_passed]
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
        outcomes = sorted(_attempt_all(chosen, Path(name), processes), key=lambda outcome: chosen.index(outcome.row))
        _stream_all(outcomes, Path(name) / "models")
    _print(outcomes, time.monotonic() - began)
    return 0 if all(outcome.has_passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
