"""`charstream train`: the training loop and its command."""

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from charstream.settings import fail, parse
from models.data.text_files import CorpusError
from models.progress import ProgressBar
from models.runs.metrics import BoardMissing, Recent
from models.runs.run import Run
from models.runs.signals import Interrupt
from models.runs.start import begin, resume
from models.training.async_steps import AsyncSteps
from models.training.autotune import describe_arithmetic, fastest_arithmetic
from models.training.checkpoint import CheckpointError
from models.training.distributed import CannotShare, FirstFailed, Group, join_group
from models.training.loss_guard import Diverged, StepOutcome
from models.training.precision import CannotCompute, device_of
from models.training.schedule import TooShort
from models.training.settings import TrainSettings

__all__ = ["main", "train", "train_model"]

COMMAND = "charstream train"
LOSS_EVERY = 25  # steps between two losses in metrics.jsonl, and the number of steps that a shown loss is the mean of
MILESTONES = {0.1: "at first", 0.5: "half way", 1.0: "at the end"}  # shares of the run after which it shows a text
WORTH_TELLING = 0.03  # share of a text that is not trained on
# What a user can correct, in one line.
WRONG = (CannotCompute, CannotShare, CheckpointError, CorpusError, BoardMissing, TooShort)

# Is told the steps done and the validation loss in nats after each check; says whether to stop here.
OnCheck = Callable[[int, float], bool]


def train_model(settings: TrainSettings, on_check: OnCheck | None = None) -> dict[str, Any]:
    """Trains in this process, from the beginning to the end or, with `resume`, from where the run was left.

    Returns:
        What the run came to: run, steps, characters, seconds, parameters, bf16, threads, tf32, skipped, best_step,
        unit; carried_nats and bits, per symbol, of the best weights on the whole validation part (None without one).

    Raises:
        Diverged: too many steps in a row were of no use; the run's folder keeps what was before.
        One of `WRONG`: it cannot begin.
    """
    run = (resume if settings.resume else begin)(settings, time.monotonic())
    with run.held:
        train(run, on_check=on_check)
        return run.finish()


def train(run: Run, interrupt: object = None, on_check: OnCheck | None = None) -> None:
    """Trains until the budget is spent, the time is up or a signal comes; saves. Raises Diverged, TooShort."""
    _choose_arithmetic(run)
    if run.trainer.step == 0:
        _show_sample(run, "untrained")
        _tell_unread(run)
    recent, validation = Recent(LOSS_EVERY), ""

    def seen(outcome: StepOutcome) -> None:
        recent.add(outcome)
        if not outcome.taken:
            run.say(_skipped(run, outcome))

    ahead = AsyncSteps(run.trainer, seen)
    began, began_at = time.monotonic(), run.trainer.step
    with ProgressBar("train", " chars", run.chars, run.chars_done, shown=run.group.is_first) as bar:
        while not run.done:
            rate, number = run.learning_rate, run.trainer.step + 1
            told = number % LOSS_EVERY == 0 or number == run.budget
            ahead.step(rate, measure=told)
            orders = run.orders(interrupt)
            # what follows is about weights and losses that are settled
            if told or run.check_due or any(orders):
                ahead.settle()
            bar.advance(run.chars_per_step, f"loss {recent.loss or math.nan:.3f}{validation}")
            if told:
                run.note(learning_rate=rate, skipped=run.trainer.guard.statistics.skipped, **recent.facts())

            # the steps so far have shown how long one takes: turn minutes into a budget
            if orders.plan:
                nats = run.plan((time.monotonic() - began) / (run.trainer.step - began_at))
                bar.set_total(run.chars or 0)
                run.say(f"{run.settings.limit:g} minutes allow {run.budget:,} steps, {run.chars:,} characters")

            # validate, save, and now and then show what it writes
            if orders.end:
                run.stop_here()
            if run.check_due:
                if not orders.plan:
                    nats = run.check()
                _show_milestone(run)
                if nats is not None:
                    validation = f", validation {nats:.3f}"
                    if on_check and on_check(run.trainer.step, nats):
                        run.stop_here()
            elif orders.save:
                run.save()
            if orders.leave:
                break
    run.save()


def _tell_unread(run: Run) -> None:
    share = run.trainer.streams.unread_share
    if share > WORTH_TELLING:
        run.say(
            f"{share:.0%} of the training text fill no window of {run.trainer.streams.sequence} in "
            f"{run.settings.batch} streams, and are not trained on: --random-offsets reaches them, "
            "or a smaller --batch or --sequence"
        )


def _skipped(run: Run, outcome: StepOutcome) -> str:
    return (
        f"step {run.trainer.step} was skipped: loss {outcome.loss:.3g}, gradient's norm {outcome.gradient_norm:.3g}; "
        f"{run.trainer.guard.statistics.skipped} of them so far"
    )


def _choose_arithmetic(run: Run) -> None:
    if run.progress.threads is None:
        run.set_arithmetic(run.group.from_first(lambda: fastest_arithmetic(run.trainer)))
        run.say(f"training in {describe_arithmetic(run.trainer)}")


def _show_milestone(run: Run) -> None:
    for share, name in MILESTONES.items():
        if run.passed(share):
            _show_sample(run, name)


def _show_sample(run: Run, when: str) -> None:
    if run.group.is_first:
        lines = "\n".join(f"  | {line}" for line in run.sample().splitlines())
        best = "" if run.progress.best is None else f", validation {run.progress.best:.3f} nats"
        run.say(f"{when}, after {run.chars_done:,} characters{best}:\n{lines}")


def _report(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    what = (
        "nothing was held out"
        if result["carried_nats"] is None
        else "{carried_nats:.4f} nats per {symbol} ({bits:.3f} bits) on the whole held-out text".format(
            symbol=result["unit"][:-1], **result
        )
    )
    print(
        "{run}: {what}; {parameters:,} parameters, {steps:,} steps, {characters:,} characters, {seconds:.0f} s".format(
            what=what, **result
        )
    )


def _run(settings: TrainSettings, began: float, group: Group) -> int:
    run = (resume if settings.resume else begin)(settings, began, group)
    with run.held:
        return _trained(run, settings, group)


def _trained(run: Run, settings: TrainSettings, group: Group) -> int:
    with Interrupt() as interrupt:
        train(run, interrupt)
    if interrupt and not run.done:
        again = shlex.join(["charstream", "train", "--out", str(settings.out), "--resume"])
        run.say(f"{COMMAND}: saved after step {run.trainer.step:,}; go on with: {again}")
        return interrupt.exit_code
    result = run.finish()
    if group.is_first:
        _report(result, settings.json_)
        _write_page(run)
    return 0


def _write_page(run: Run) -> None:
    # Imported here: its plots take a second to import, which the first step should not wait for.
    from models.reporting.report import write_report

    if page := write_report(run.settings.out):
        run.say(f"{page} tells all of the run")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: trained; 1: it failed; 2: wrong usage; 128 + n: signal n came, and the run was saved."""
    began = time.monotonic()
    settings = parse(TrainSettings, argv, command=COMMAND)
    try:
        with join_group(device_of(settings.device)) as group:
            return _run(settings, began, group)
    except WRONG as error:
        fail(COMMAND, str(error))
    except Diverged as error:
        fail(
            COMMAND,
            f"{error}; {settings.out} keeps what was before: try a lower --learning-rate, or a smaller --clip-norm",
            code=1,
        )
    except torch.OutOfMemoryError:
        fail(COMMAND, "the GPU's memory does not suffice: use a smaller --batch, --sequence or --hidden", code=1)
    except FirstFailed:
        return 1
    except KeyboardInterrupt:
        fail(COMMAND, f"stopped; {settings.out} keeps what was saved", code=130)
    except OSError as error:
        fail(COMMAND, f"{error.filename or settings.out}: {error.strerror or error}", code=1)


if __name__ == "__main__":
    code = main()
    if "WORLD_SIZE" in os.environ:
        # As the interpreter ended, threads of the group's were seen to abort it ("terminate called without an active
        # exception"): torchrun takes that for a failure, and ends the process that is still writing.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
