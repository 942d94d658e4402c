"""Steps that wait together, and sequences in a store that is full."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from threading import Event

import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.shape import ModelShape
from server.errors import Overloaded, SequenceNotFound
from server.runtime.step_runner import StepOutput
from server.streaming.sequences import Key, Sequences
from server.streaming.steps import Steps

SHAPE = ModelShape(cell="gru", layers=1, hidden=2)
ROW_BYTES = 8


class Adder:
    """A runner whose state is the sum of the tokens; it runs while `may_run` is set."""

    def __init__(self) -> None:
        self.may_run = Event()
        self.may_run.set()

    def run(self, token: NDArray[np.int64], state: Sequence[NDArray[np.float32]]) -> StepOutput:
        assert self.may_run.wait(60)
        after = [array + token[:, None].astype(np.float32) for array in state]
        return StepOutput(after[0], after)


@asynccontextmanager
async def steps_of(adder: Adder, most: int = 100) -> AsyncIterator[Steps]:
    steps = Steps(adder, asyncio.get_running_loop(), 4, most)
    try:
        yield steps
    finally:
        adder.may_run.set()
        steps.stop()


def token(number: int) -> NDArray[np.int64]:
    return np.array([number])


def zeros() -> list[NDArray[np.float32]]:
    return [np.zeros((1, 2), np.float32)]


async def total(sequences: Sequences, steps: Steps, name: str, number: int, *, begin: bool = False) -> float:
    key = Key("ann", name)
    output, _ = await sequences.step(key, token(number), steps, begin=zeros() if begin else None, end=False)
    return float(output.logits[0, 0])


async def test_what_waits_shares_runs_and_what_is_given_up_is_left_out() -> None:
    adder = Adder()
    async with steps_of(adder) as steps:
        adder.may_run.clear()
        tasks = [asyncio.create_task(steps.step(token(number), zeros())) for number in range(8)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.sleep(0)
        adder.may_run.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(3), asyncio.CancelledError)
        assert [result[0].logits[0, 0] for result in results if isinstance(result, tuple)] == [0, 1, 2, 4, 5, 6, 7]
        assert {rows: total.count for rows, total in steps.totals.items()} == {1: 1, 4: 1, 2: 1}


async def test_no_more_steps_wait_than_may() -> None:
    adder = Adder()
    async with steps_of(adder, most=2) as steps:
        adder.may_run.clear()
        tasks = [asyncio.create_task(steps.step(token(number), zeros())) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="the model has 2 steps waiting"):
            await steps.step(token(1), zeros())
        adder.may_run.set()
        await asyncio.gather(*tasks)


async def test_a_sequence_in_use_is_not_evicted() -> None:
    adder = Adder()
    sequences = Sequences(SHAPE, 2 * ROW_BYTES, idle_seconds=60)
    async with steps_of(adder) as steps:
        adder.may_run.clear()
        tasks = [asyncio.create_task(total(sequences, steps, name, 1, begin=True)) for name in "ab"]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="all of the 2 sequences that the model may hold are in use"):
            await total(sequences, steps, "c", 1, begin=True)
        adder.may_run.set()
        await asyncio.gather(*tasks)
        await total(sequences, steps, "c", 1, begin=True)
        with pytest.raises(SequenceNotFound, match="was evicted"):
            await total(sequences, steps, "a", 1)
        assert await total(sequences, steps, "b", 3) == 4


async def test_a_step_that_is_given_up_leaves_the_state_as_it_was() -> None:
    """And the next step of the sequence has its turn."""
    adder = Adder()
    sequences = Sequences(SHAPE, 2 * ROW_BYTES, idle_seconds=60)
    async with steps_of(adder) as steps:
        assert await total(sequences, steps, "a", 5, begin=True) == 5
        adder.may_run.clear()
        lost, following = (asyncio.create_task(total(sequences, steps, "a", number)) for number in (100, 2))
        await asyncio.sleep(0.01)
        lost.cancel()
        await asyncio.sleep(0.01)
        adder.may_run.set()
        assert await following == 7
        assert len(sequences) == 1


async def test_a_sequence_that_is_not_used_is_forgotten() -> None:
    sequences = Sequences(SHAPE, 2 * ROW_BYTES, idle_seconds=0.05)
    async with steps_of(Adder()) as steps:
        await total(sequences, steps, "a", 1, begin=True)
        await asyncio.sleep(0.1)
        with pytest.raises(SequenceNotFound, match=r"'a' was evicted: it was not used for 0.05 s"):
            await total(sequences, steps, "a", 1)
        assert len(sequences) == 0
