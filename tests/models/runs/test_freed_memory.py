"""A step lives on the memory that the one before it freed."""

import resource
import sys

import pytest

from models.runs.freed_memory import keep_freed_memory
from tests.models.training.test_autotune import trainer_of


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_step_takes_no_memory_from_the_system() -> None:
    """Thousands of pages a step, each of which the system clears: a tenth of the time of a GRU 1x768."""
    keep_freed_memory()
    trainer = trainer_of(cell="gru", hidden=128, batch=32, sequence=64)
    for _ in range(4):
        trainer.train_step(0.01)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        trainer.train_step(0.01)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 500
