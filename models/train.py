"""`charstream train`: the training loop and its command."""

import json
import shlex
import sys
import time
from collections import deque
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from charstream.settings import fail, parse
from models.arithmetic import NoBfloat16, fastest
from models.begin import begin, resume
from models.checkpoint import CheckpointError
from models.interrupt import Interrupt
from models.progress import ProgressBar, say
from models.run import Run
from models.schedule import TooShort
from models.settings import TrainSettings
from models.text import CorpusError
from models.trainer import Diverged

__all__ = ["main", "train"]

COMMAND = "charstream train"
LOSS_EVERY = 25  # steps between two losses in metrics.jsonl, and the number of steps that a shown loss is the mean of
MILESTONES = {0.1: "at first", 0.5: "half way", 1.0: "at the end"}  # shares of the run after which it shows a text


def train(run: Run, interrupt: Interrupt) -> None:
    """Trains until the budget is spent, the time is up or a signal comes; saves. Raises Diverged, TooShort."""
    _choose_arithmetic(run)
    if run.trainer.step == 0:
        _show_sample(run, "untrained")
    losses: deque[float] = deque(maxlen=LOSS_EVERY)
    validation = ""
    began, began_at = time.monotonic(), run.trainer.step
    with ProgressBar("train", " chars", run.chars, run.chars_done) as bar:
        while not run.done and not interrupt:
            rate = run.learning_rate
            losses.append(run.trainer.train_step(rate))
            bar.advance(run.chars_per_step, f"loss {fmean(losses):.3f}{validation}")
            if run.trainer.step % LOSS_EVERY == 0:
                run.note(loss=fmean(losses), learning_rate=rate)

            # the steps so far have shown how long one takes: turn minutes into a budget
            if run.plannable:
                run.plan((time.monotonic() - began) / (run.trainer.step - began_at))
                bar.set_total(run.chars)
                say(f"{run.minutes:g} minutes allow {run.budget:,} steps, {run.chars:,} characters")

            # validate, save, and now and then show what it writes
            if run.late:
                run.stop_here()
            if run.check_due:
                validation = f", validation {run.check():.3f}"
                _show_milestone(run)
            elif run.save_due:
                run.save()
    run.save()


def _choose_arithmetic(run: Run) -> None:
    if run.progress.threads is None:
        run.set_arithmetic(fastest(run.trainer, run.settings.amp))
        bf16, threads = run.trainer.arithmetic
        say(f"training in {'bfloat16' if bf16 else 'float32'} with {threads} thread{'s' * (threads > 1)}")


def _show_milestone(run: Run) -> None:
    for share, name in MILESTONES.items():
        if run.passed(share):
            _show_sample(run, name)


def _show_sample(run: Run, when: str) -> None:
    lines = "\n".join(f"  | {line}" for line in run.sample().splitlines())
    best = "" if run.progress.best is None else f", validation {run.progress.best:.3f} nats"
    say(f"{when}, after {run.chars_done:,} characters{best}:\n{lines}")


def _report(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    print(
        "{run}: {carried_nats:.4f} nats per character ({bits_per_character:.3f} bits) on the whole held-out text; "
        "{parameters:,} parameters, {steps:,} steps, {characters:,} characters, {seconds:.0f} s".format(**result)
    )


def _run(settings: TrainSettings, began: float) -> int:
    run = (resume if settings.resume else begin)(settings, began)
    with Interrupt() as interrupt:
        train(run, interrupt)
    if interrupt and not run.done:
        again = shlex.join(["charstream", "train", "--out", str(settings.out), "--resume"])
        say(f"{COMMAND}: saved after step {run.trainer.step:,}; go on with: {again}")
        return interrupt.exit_code
    _report(run.finish(), settings.json_)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: trained; 1: it failed; 2: wrong usage; 128 + n: signal n came, and the run was saved."""
    began = time.monotonic()
    settings = parse(TrainSettings, argv, command=COMMAND)
    try:
        return _run(settings, began)
    except (CorpusError, CheckpointError, NoBfloat16, TooShort) as error:
        fail(COMMAND, str(error))
    except Diverged as error:
        fail(COMMAND, f"{error}; {settings.out} keeps what was before: try a lower --learning-rate", code=1)
    except KeyboardInterrupt:
        fail(COMMAND, f"stopped; {settings.out} keeps what was saved", code=130)
    except OSError as error:
        fail(COMMAND, f"{error.filename or settings.out}: {error.strerror or error}", code=1)


if __name__ == "__main__":
    sys.exit(main())
