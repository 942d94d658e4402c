"""`charstream train`: the training loop and its command."""

import json
import math
import os
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import torch

from bundle.vocabulary import singular
from charstream.settings import fail, parse
from models.data.text_files import CorpusError
from models.runs.metrics import BoardMissing
from models.runs.run import Run
from models.runs.signals import Interrupt
from models.runs.start import begin, discard_begun_run, how_to_go_on, resume
from models.runs.step_profile import profile_step
from models.terminal import ProgressBar
from models.training.async_steps import AsyncSteps
from models.training.autotune import ThreadTrials, describe_arithmetic, fastest_arithmetic
from models.training.checkpoint import CheckpointError
from models.training.distributed import (
    ALONE,
    CannotShare,
    FirstFailed,
    Group,
    is_restarted_by_torchrun,
    join_group,
    may_meet_the_dead,
)
from models.training.loss_guard import Diverged, StepOutcome
from models.training.precision import Arithmetic, CannotCompute, device_of
from models.training.schedule import TooShort
from models.training.settings import TrainSettings

__all__ = ["USAGE_ERRORS", "main", "train", "train_model"]

COMMAND = "charstream train"
LOSS_EVERY = 25  # steps between two losses in metrics.jsonl; each is the mean of as many steps
MILESTONES = {0.1: "at first", 0.5: "half way", 1.0: "at the end"}  # shares of the run after which a sample is shown
MOST_UNREAD = 0.03  # share of the training text that may stay unread without a warning
# Errors that a user can correct; their messages are one line.
USAGE_ERRORS = (CannotCompute, CannotShare, CheckpointError, CorpusError, BoardMissing, TooShort)

# Called after each check with the steps done and the validation loss in nats; returns whether to stop there.
OnCheck = Callable[[int, float], bool]


def train_model(settings: TrainSettings, on_check: OnCheck | None = None) -> dict[str, Any]:
    """Train a model in this process, from the beginning or, with `resume`, from the last checkpoint, to the end.

    Returns:
        The result: run, steps, characters, seconds, parameters, bf16, threads, tf32, skipped, best_step, unit;
        carried_nats and bits, the loss per symbol of the best weights on the whole validation part (None without one).

    Raises:
        Diverged: too many steps in a row were skipped; the run's folder keeps the checkpoints before them.
        One of `USAGE_ERRORS`: the run cannot begin.
    """
    run = _open_run(settings, time.monotonic())
    with run.lock, _nothing_left_if_too_short(run):
        train(run, on_check=on_check)
        return run.finish()


def train(run: Run, interrupt: object = None, on_check: OnCheck | None = None) -> None:
    """Train until the budget is spent, the time is up or `interrupt` is true; then save. Raises Diverged, TooShort."""
    # the arithmetic of the whole run, and what an untrained model writes
    if run.progress.threads is None:
        run.set_arithmetic(run.group.from_first(lambda: fastest_arithmetic(run.trainer)))
        run.say(f"training in {describe_arithmetic(run.trainer)}")
    if run.settings.profile:
        run.say(run.group.from_first(lambda: profile_step(run.trainer)))
    if run.trainer.step == 0:
        _show_sample(run, "untrained")
        _warn_of_unread_text(run)

    recent, validation = _RecentSteps(run), ""
    steps = AsyncSteps(run.trainer, recent.add)

    def change_arithmetic(arithmetic: Arithmetic) -> None:
        run.set_arithmetic(arithmetic)
        run.say(f"from step {run.trainer.step + 1:,} on in {describe_arithmetic(run.trainer)}: it is faster now")

    trials = ThreadTrials(run.trainer, change_arithmetic)
    began, began_at = time.monotonic(), run.trainer.step
    with ProgressBar("train", " chars", run.chars, run.chars_done, shown=run.group.is_first) as bar:
        while not run.is_done:
            # take a step at the schedule's learning rate
            rate, number = run.learning_rate, run.trainer.step + 1
            loss_due = number % LOSS_EVERY == 0 or number == run.budget
            with trials.timed():
                steps.step(rate, measure=loss_due)

            # ask for orders; what follows them needs weights and losses that are settled
            orders = run.orders(interrupt)
            if loss_due or run.check_due or any(orders):
                steps.settle()

            # show and note the loss
            bar.advance(run.chars_per_step, f"loss {math.nan if recent.loss is None else recent.loss:.3f}{validation}")
            if loss_due:
                run.note(learning_rate=rate, skipped=run.trainer.guard.statistics.skipped, **recent.facts())

            # turn minutes into a budget, once the steps have shown how long one takes
            if orders.plan:
                nats = run.plan((time.monotonic() - began) / (run.trainer.step - began_at))
                bar.set_total(run.chars or 0)
                run.say(run.describe_plan())
            if orders.end:
                if run.budget and run.trainer.step < run.budget:
                    run.say(f"the time is up after {run.trainer.step:,} of these steps: they took longer than at first")
                run.stop_here()

            # validate and save, and now and then show what the model writes
            if run.check_due:
                if not orders.plan:
                    nats = run.validate()
                if passed := [name for share, name in MILESTONES.items() if run.has_passed(share)]:
                    _show_sample(run, passed[-1])
                if nats is not None:
                    validation = f", validation {nats:.3f}"
                    if on_check and on_check(run.trainer.step, nats):
                        run.stop_here()
            elif orders.save:
                run.save()

            # leave at a signal
            if orders.leave:
                break
    run.save()


@contextmanager
def _nothing_left_if_too_short(run: Run) -> Iterator[None]:
    """Leave the folder free for the next try if the time does not suffice, as only the steps may have shown."""
    try:
        yield
    except TooShort:
        if run.group.is_first and not run.settings.resume:
            discard_begun_run(run.settings.out)
        raise


class _RecentSteps:
    """The last `LOSS_EVERY` steps that were taken; skipped ones are told of, and count in no mean."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._taken: deque[StepOutcome] = deque(maxlen=LOSS_EVERY)

    def add(self, outcome: StepOutcome) -> None:
        if outcome.accepted:
            self._taken.append(outcome)
            return
        trainer = self._run.trainer
        self._run.say(
            f"step {trainer.step} was skipped: loss {outcome.loss:.3g}, gradient's norm {outcome.gradient_norm:.3g}; "
            f"{trainer.guard.statistics.skipped} of them so far"
        )

    @property
    def loss(self) -> float | None:
        """Mean of the steps' losses; None before the first one."""
        return fmean(outcome.loss for outcome in self._taken) if self._taken else None

    def facts(self) -> dict[str, float]:
        """Return loss, gradient_norm (both means), gradient_norm_max, and update_ratio of the last step."""
        if self.loss is None:
            return {}
        norms = [outcome.gradient_norm for outcome in self._taken]
        facts = {"loss": self.loss, "gradient_norm": fmean(norms), "gradient_norm_max": max(norms)}
        ratio = self._taken[-1].update_ratio
        return facts if ratio is None else {**facts, "update_ratio": ratio}


def _warn_of_unread_text(run: Run) -> None:
    share = run.trainer.streams.unread_share
    if share > MOST_UNREAD:
        run.say(
            f"{share:.0%} of the training text fill no window of {run.trainer.streams.sequence} in "
            f"{run.settings.batch} streams, and are not trained on: --random-offsets reaches them, "
            "or a smaller --batch or --sequence"
        )


def _show_sample(run: Run, when: str) -> None:
    if run.group.is_first:
        lines = "\n".join(f"  | {line}" for line in run.sample().splitlines())
        best = "" if run.progress.best is None else f", best validation {run.progress.best:.3f} nats"
        run.say(f"{when}, after {run.chars_done:,} characters{best}:\n{lines}")


def _open_run(settings: TrainSettings, began: float, group: Group = ALONE) -> Run:
    if is_restarted_by_torchrun():
        settings = settings.model_copy(update=group.from_first(lambda: how_to_go_on(settings.out)))
    return (resume if settings.resume else begin)(settings, began, group)


def _run(settings: TrainSettings, began: float, group: Group) -> int:
    run = _open_run(settings, began, group)
    if may_meet_the_dead():
        run.say(
            f"{COMMAND}: start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: without it processes that begin "
            "again after a death may wait for the dead one for ever"
        )
    with run.lock:
        with Interrupt() as interrupt, _nothing_left_if_too_short(run):
            train(run, interrupt)
        if interrupt and not run.is_done:
            again = shlex.join(["charstream", "train", "--out", str(settings.out), "--resume"])
            run.say(f"{COMMAND}: saved after step {run.trainer.step:,}; go on with: {again}")
            return interrupt.exit_code
        result = run.finish()
        if group.is_first:
            _print_result(result, settings.json_)
            # Imported here: its plots take a second to import, which the first step should not wait for.
            from models.reporting.report import write_report

            if page := write_report(run.settings.out):
                run.say(f"{page} tells all of the run")
        return 0


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    what = (
        "nothing was held out"
        if result["carried_nats"] is None
        else "{carried_nats:.4f} nats per {symbol} ({bits:.3f} bits) on the whole held-out text".format(
            symbol=singular(result["unit"]), **result
        )
    )
    print(
        "{run}: {what}; {parameters:,} parameters, {steps:,} steps, {characters:,} characters, {seconds:.0f} s".format(
            what=what, **result
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train. Exit code 0: done; 1: it failed; 2: wrong usage; 128 + n: signal n came, and the run was saved."""
    began = time.monotonic()
    settings = parse(TrainSettings, argv, command=COMMAND)
    try:
        with join_group(device_of(settings.device)) as group:
            return _run(settings, began, group)
    except USAGE_ERRORS as error:
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
        # Threads of the group were seen to abort the interpreter at its end ("terminate called without an active
        # exception"). torchrun takes that for a failure, and ends the process that is still writing.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
