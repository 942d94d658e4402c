"""How many threads a run takes follows what its steps show, and changes nothing of what it learns."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.vocabulary import Vocabulary
from models.runs.start import new_model
from models.runs.step_profile import profile_step
from models.training import autotune
from models.training.autotune import ThreadTrials, first_step_seconds, thread_counts
from models.training.batches import Streams
from models.training.checkpoint import read
from models.training.precision import Arithmetic
from models.training.settings import TrainSettings
from models.training.trainer import Trainer

SYMBOLS = "abcdefgh"


def trainer_of(threads: int = 1, **options: object) -> Trainer:
    """Return a trainer of a small model on noise, that computes with some threads."""
    settings = TrainSettings.model_validate(
        {"out": Path("none"), "layers": 1, "hidden": 48, "embedding": 8, "batch": 4, "sequence": 16, **options}
    )
    text = np.random.default_rng(0).integers(len(SYMBOLS), size=4000)
    trainer = Trainer(new_model(settings, Vocabulary(SYMBOLS)), Streams(text, len(SYMBOLS), settings), settings)
    trainer.arithmetic = Arithmetic(False, threads)
    return trainer


@pytest.mark.parametrize(("cores", "expected"), [(0.3, [2, 2, 1]), (1.9, [2, 2])], ids=["busy", "idle"])
def test_the_first_step_is_not_judged_by_threads_that_other_work_holds_up(
    monkeypatch: pytest.MonkeyPatch, cores: float, expected: list[int]
) -> None:
    """On a busy machine two threads took a second for what one did in a tenth: runs of a minute were refused."""
    now, taken = 0.0, []

    def step(trainer: Trainer, *, learning_rate: float) -> None:
        nonlocal now
        taken.append(trainer.arithmetic.threads)
        now += {1: 0.1, 2: 1.0}[trainer.arithmetic.threads]

    monkeypatch.setattr(Trainer, "train_step", step)
    monkeypatch.setattr(autotune, "thread_counts", lambda: [1, 2])
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: now)
    monkeypatch.setattr(autotune.time, "process_time", lambda: now * cores)
    seconds = first_step_seconds(trainer_of(), short=0.12)
    assert (taken, seconds) == (expected, pytest.approx(0.1 if 1 in expected else 1.0))


class Machine:
    """A clock that goes on by what a step takes with each number of threads."""

    def __init__(self, trainer: Trainer, seconds: dict[int, float]) -> None:
        self.trainer, self.seconds, self.now, self.used = trainer, seconds, 0.0, 0
        self.settled: list[int] = []
        self.trials = ThreadTrials(
            trainer,
            lambda arithmetic: self.settled.append(arithmetic.threads),
            counts=[1, 2, 4],
            every=60.0,
            clock=lambda: self.now,
        )

    def run(self, steps: int) -> None:
        for _ in range(steps):
            with self.trials.timed():
                self.now += self.seconds[self.trainer.arithmetic.threads]
                self.used = self.trainer.arithmetic.threads


def test_a_run_takes_more_threads_when_the_other_cores_are_free_and_fewer_when_they_are_not() -> None:
    machine = Machine(trainer_of(), {1: 1.0, 2: 3.0, 4: 9.0})  # begun beside other work
    machine.run(200)
    assert machine.settled == []
    assert machine.used == 1
    machine.seconds = {1: 1.0, 2: 0.55, 4: 0.3}  # which ended
    machine.run(2000)
    assert machine.settled == [2, 4]
    assert machine.used == 4
    machine.seconds = {1: 1.0, 2: 4.0, 4: 9.0}  # and came back
    machine.run(400)
    assert machine.settled == [2, 4, 2, 1]


def test_steps_that_become_much_slower_bring_the_next_trial_forward() -> None:
    """Threads that wait for each other beside other work took twice as long as one, for up to a minute."""
    machine = Machine(trainer_of(2), {1: 0.1, 2: 0.06, 4: 0.3})
    machine.run(300)
    assert machine.used == 2
    machine.seconds = {1: 0.1, 2: 0.2, 4: 0.5}
    began = machine.now
    machine.run(30)
    assert machine.used == 1
    assert machine.now - began < 6


def test_trials_cost_little_even_where_more_threads_are_far_slower() -> None:
    machine = Machine(trainer_of(), {1: 0.1, 2: 5.0, 4: 5.0})
    machine.run(20_000)
    assert machine.now < 1.03 * 20_000 * 0.1


def test_threads_that_are_given_stay() -> None:
    given = trainer_of()
    given.settings = given.settings.model_copy(update={"threads": 1})
    machine = Machine(given, {1: 1.0, 2: 0.5, 4: 0.1})
    machine.run(200)
    assert machine.used == 1


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_number_of_threads_changes_no_bit_of_the_weights(cell: str) -> None:
    """So a run that changed it on the way is resumed to the same bits."""
    if cell == "lstm" and "AVX512" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("oneDNN's LSTM adds up in another order with another number of threads where there is no AVX-512")
    weights = []
    for threads in (1, 2):
        trainer = trainer_of(threads, cell=cell, hidden=160, precision="fp32")
        for _ in range(3):
            trainer.train_step(1e-2)
        weights.append(trainer.weights())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_the_profile_tells_each_arithmetic_and_leaves_the_trainer_as_it_was() -> None:
    trainer = trainer_of(cell="gru", precision="fp32")
    before = trainer.weights()
    told = profile_step(trainer)
    assert "a step reads 4 x 16 characters" in told
    assert all(f"float32, {count} thread" in told for count in thread_counts())
    assert "of the" in told
    assert "of a step's time: products" in told
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.weights().items())
    assert (trainer.step, trainer.arithmetic) == (0, Arithmetic(False, 1))


def test_runs_name_their_threads(train: Callable[..., Path]) -> None:
    header, _ = read(train("--cell", "gru", "--steps", "3", "--threads", "1", "--profile") / "last.json")
    assert header.progress.threads == 1
