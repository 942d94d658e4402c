"""Training on a GPU: no step waits for it, it learns what the processor learns, and a run can go on on the other."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charstream.settings import parse
from models.runs.start import begin
from models.train import main
from models.training.async_steps import AsyncSteps
from models.training.autotune import fastest_arithmetic
from models.training.checkpoint import load, read
from models.training.precision import device_of
from models.training.settings import TrainSettings
from models.training.trainer import Trainer
from tests.models.conftest import SMALL, flags_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")]
NOISE = ("--dropout", "0.2", "--replace-rate", "0.1", "--drop-rate", "0.1", "--ema", "0.9", "--restart-every", "3")
EXACT = 1e-4  # nats

Train = Callable[..., Path]
MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def trainer(verse: Path, tmp_path: Path) -> Iterator[MakeTrainer]:
    """Makes the trainer of a run that is about to begin."""
    held = []

    def made(*flags: str) -> Trainer:
        given = ["--data", str(verse), "--out", str(tmp_path / str(len(held))), *SMALL, *flags]
        run = begin(parse(TrainSettings, given, command="test"), 0.0)
        held.append(run.lock)
        return run.trainer

    yield made
    for lock in held:
        lock.close()


def _losses(trainer: Trainer, steps: int) -> list[float]:
    return [trainer.train_step(0.01).loss for _ in range(steps)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("noise", [(), NOISE], ids=["plain", "noise"])
def test_no_step_waits_for_the_gpu(
    trainer: MakeTrainer, cell: dict[str, str], noise: tuple[str, ...], precision: str
) -> None:
    made = trainer("--device", "cuda", "--precision", precision, *flags_of(cell), *noise)
    made.arithmetic = made.arithmetic._replace(bf16=precision == "bf16")
    outcomes: list[Any] = []
    ahead = AsyncSteps(made, outcomes.append)
    for _ in range(2):  # libraries are loaded, memory is taken
        ahead.step(0.01, measure=True)
    ahead.settle()
    ahead.step(0.01, measure=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(20):
            ahead.step(0.01, measure=number % 5 == 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    ahead.settle()
    assert len(outcomes) == 23
    assert all(outcome.taken for outcome in outcomes)


def test_it_learns_what_the_processor_learns(trainer: MakeTrainer, cell: dict[str, str]) -> None:
    flags = ("--dropout", "0", "--replace-rate", "0.1", *flags_of(cell))
    there, here = (_losses(trainer("--device", device, *flags), 30) for device in ("cuda", "cpu"))
    assert there == pytest.approx(here, abs=EXACT)


def test_bfloat16_learns_about_the_same(trainer: MakeTrainer, cell: dict[str, str]) -> None:
    """Gradients of float16, which autocast would give cuDNN's kernels, would vanish."""
    exact, rounded = (trainer("--device", "cuda", "--dropout", "0", *flags_of(cell)) for _ in range(2))
    rounded.arithmetic = rounded.arithmetic._replace(bf16=True)
    one, other = (_losses(made, 100) for made in (exact, rounded))
    assert np.mean(other[-20:]) == pytest.approx(np.mean(one[-20:]), abs=0.05)


def test_what_is_fastest_is_found_out_and_can_be_used(trainer: MakeTrainer) -> None:
    made = trainer("--device", "cuda", "--precision", "auto", "--hidden", "512")
    made.arithmetic = fastest_arithmetic(made)
    assert all(np.isfinite(_losses(made, 3)))
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_a_run_goes_on_on_the_other_device(train: Train, tmp_path: Path, first: str, then: str) -> None:
    own = ("--dropout", "0", "--learning-rate", "0.01", "--ema", "0.9", "--norm", "batch")
    whole = train("--device", then, "--steps", "60", *own, name="whole")
    parts = train("--device", first, "--steps", "30", *own, name="parts")
    header = json.loads((parts / "last.json").read_text())
    header["settings"]["steps"] = header["progress"]["budget"] = 60
    (parts / "last.json").write_text(json.dumps(header))
    assert main(["--out", str(parts), "--resume", "--device", then]) == 0
    progress = read(parts / "last.json")[0].progress
    assert (progress.step, progress.device) == (60, then)
    nats = [load(run).record.validation_nats["carried"] for run in (whole, parts)]
    # The learning rates of the first half differ: it was half of another course.
    assert nats[0] == pytest.approx(nats[1], abs=0.2)


def test_a_model_trained_there_computes_the_same_here(train: Train) -> None:
    run = train("--device", "cuda", "--steps", "50")
    trained = load(run)
    ids = torch.randint(0, len(trained.vocabulary.symbols), (30, 4))
    state = trained.model.initial_state(4)
    here, _ = trained.model(ids, state)
    device_of("cuda")
    model = load(run).model.cuda()
    there, _ = model(ids.cuda(), model.initial_state(4))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)


def test_too_little_memory_is_one_line(verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--data", str(verse), "--out", str(tmp_path / "run"), *SMALL, "--device", "cuda", "--hidden", "1024")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        with pytest.raises(SystemExit) as end:
            main([*flags, "--layers", "2"])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert end.value.code == 1
    assert "memory does not suffice" in capsys.readouterr().err
