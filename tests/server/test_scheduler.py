"""The scheduler is bookkeeping: it can be tested with integers."""

import random

from hypothesis import given
from hypothesis import strategies as st

from server.scheduler import FIRST_CHARS, MAX_STEPS, Move, Row, Scheduler, Status

STEP = 0.001


def scheduler(max_rows: int = 4, max_batch: int = 4, chunk_delay: float = 0.0205) -> Scheduler:
    return Scheduler(max_rows, max_batch, chunk_delay, lambda rows: STEP)


def row(stream: int, *, forced: int = 0, chars: int = 1000, credit: int = 1000, delay: float = 1.0) -> Row:
    return Row(stream, forced, chars, credit, delay, fresh=False)


def test_rows_beyond_the_limit_wait_in_order() -> None:
    s = scheduler(max_rows=2)
    rows = [row(n) for n in range(4)]
    for r in rows:
        s.add(r)
    assert s.admit() == rows[:2]
    assert s.admit() == []
    s.end(rows[0])
    assert s.admit() == [rows[2]]
    assert rows[3].status is Status.WAITING


def test_last_row_takes_the_place_of_one_that_leaves() -> None:
    s = scheduler()
    rows = [row(n) for n in range(3)]
    for r in rows:
        s.add(r)
    s.admit()
    assert s.end(rows[0]) == Move(source=2, target=0)
    assert [r.slot for r in rows[1:]] == [1, 0]
    assert s.end(rows[1]) is None


def test_a_run_fits_the_chunk_delay() -> None:
    s = scheduler(chunk_delay=0.0205)
    s.add(row(0))
    s.admit()
    assert s.plan().steps == 20


def test_a_shorter_delay_of_one_row_shortens_the_run() -> None:
    s = scheduler()
    s.add(row(0))
    s.add(row(1, delay=0.0055))
    s.admit()
    assert s.plan().steps == 5


def test_a_newcomers_first_run_is_short_but_covers_its_prompt() -> None:
    s = scheduler(chunk_delay=1.0)
    s.add(row(0))
    newcomer = row(1, forced=10)
    newcomer.fresh = True
    s.add(newcomer)
    s.admit()
    assert s.plan().steps == 10 + FIRST_CHARS


def test_no_run_is_longer_than_its_longest_row_or_the_limit() -> None:
    s = scheduler(chunk_delay=10)
    s.add(row(0, chars=7))
    s.add(row(1, chars=3))
    s.admit()
    plan = s.plan()
    assert plan.steps == 7
    assert list(plan.row_steps) == [7, 3]
    s.add(row(2, chars=10_000, credit=10_000))
    s.admit()
    assert s.plan().steps == MAX_STEPS


def test_groups_take_turns_and_share_the_delay() -> None:
    s = scheduler(max_rows=5, max_batch=2)
    for n in range(5):
        s.add(row(n))
    s.admit()
    plans = [s.plan() for _ in range(3)]
    assert sorted(plan.first for plan in plans) == [0, 2, 4]
    assert {plan.steps for plan in plans} == {6}


def test_a_paused_row_gives_its_place_to_another_and_is_first_to_get_one_again() -> None:
    s = scheduler(max_rows=1)
    slow, other, third = row(0), row(1), row(2)
    for r in (slow, other, third):
        s.add(r)
    s.admit()
    s.pause(slow)
    assert s.admit() == [other]
    s.grant(slow, 10)
    assert s.admit() == []
    s.end(other)
    assert s.admit() == [slow]
    s.end(slow)
    assert s.admit() == [third]


def test_nothing_to_do_while_all_rows_are_paused() -> None:
    s = scheduler()
    slow = row(0)
    s.add(slow)
    assert not s.idle
    s.admit()
    s.pause(slow)
    assert s.idle
    assert s.plan() is None
    s.grant(slow, 10)
    assert not s.idle


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 4))
def test_any_sequence_keeps_slots_without_gaps(seed: int, max_rows: int, max_batch: int) -> None:
    rng = random.Random(seed)
    s = scheduler(max_rows, max_batch)
    rows: list[Row] = []
    slots: dict[int, Row] = {}  # what arrays that follow the moves would hold
    for number in range(60):
        alive = [r for r in rows if r.status is not Status.ENDED]
        match rng.choice(("add", "admit", "end", "pause", "grant")):
            case "add":
                rows.append(row(number))
                s.add(rows[-1])
            case "admit":
                slots.update({r.slot: r for r in s.admit()})
            case "grant" if alive:
                s.grant(rng.choice(alive), 5)
            case "end" if alive:
                leave(s, rng.choice(alive), slots, s.end)
            case "pause" if s.running:
                leave(s, rng.choice(s.running), slots, s.pause)
        assert [r.slot for r in s.running] == list(range(len(s.running)))
        assert slots == dict(enumerate(s.running))
        assert len(s.running) <= max_rows
        assert set(s.waiting) == {r.stream for r in rows if r.status is Status.WAITING}
        assert all(r.status is Status.PAUSED for r in s.resumed.values())


def leave(s: Scheduler, chosen: Row, slots: dict[int, Row], how: object) -> None:
    """Ends or pauses a row, and does with `slots` what the arrays do."""
    slot, was_running = chosen.slot, chosen.status is Status.RUNNING
    move = how(chosen)  # type: ignore[operator]
    if move:
        slots[move.target] = slots.pop(move.source)
    elif was_running:
        slots.pop(slot)
