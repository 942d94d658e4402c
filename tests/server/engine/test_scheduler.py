"""The scheduler is bookkeeping: it can be tested with integers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.plan import LONE_STEPS, MAX_STEPS, PREFILL_ROWS, Area, Chunking, Move, Row, RunLimits, Status
from server.engine.scheduler import (
    FIRST_CHARS,
    LONG_PROMPT,
    LONGEST_STRETCHED,
    MAX_PREFILL_STEPS,
    PREFILL_SHARE,
    Scheduler,
)

STEP = 0.001


def runs(max_rows: int = 4, max_batch: int = 4) -> RunLimits:
    """As of a store in the host's memory."""
    steps = range(1, LONE_STEPS + 1)
    return RunLimits(max_rows, max_batch, steps, steps, 1000, min(PREFILL_ROWS, max_batch), max_rows, overlaps=False)


def scheduler(max_rows: int = 4, max_batch: int = 4, chunk_delay: float = 0.0205) -> Scheduler[Row]:
    return Scheduler(runs(max_rows, max_batch), chunk_delay, lambda rows, full: STEP)


def row(
    stream: int,
    *,
    forced: int = 0,
    chars: int = 1000,
    credit: int = 1000,
    delay: float = 1.0,
    message: int | None = None,
) -> Row:
    return Row(stream, forced, forced, chars, credit, Chunking(delay, message), fresh=False)


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


@pytest.mark.parametrize(
    ("messages", "steps"),
    [
        ((8, 8), 8),
        ((8, 5), 8),  # five, and three at once: no more messages than of a longer run
        ((1, 1), 4),  # shorter runs would not be worth their beginning and end
        ((8, None), 20),  # who wants long messages gets no more of them
    ],
)
def test_short_messages_come_evenly_where_all_want_them(messages: tuple[int | None, ...], steps: int) -> None:
    s = scheduler()
    for stream, message in enumerate(messages):
        s.add(row(stream, message=message))
    s.admit()
    assert s.plan().steps == steps


def newcomer(stream: int, forced: int) -> Row:
    return Row(stream, forced, forced, 1000, 1000, Chunking(1.0))


def test_a_newcomers_first_run_is_short_but_covers_its_prompt() -> None:
    s = scheduler(chunk_delay=1.0)
    s.add(row(0))
    s.add(newcomer(1, forced=10))
    s.admit()
    plan = s.plan()
    assert (plan.steps, plan.postpone) == (10 + FIRST_CHARS, True)


def test_a_message_that_its_reader_waits_for_is_made_in_one_run() -> None:
    """In the first run of a text too, and where a run fits the delay that is shorter than the message."""
    s = scheduler(chunk_delay=0.0505)
    s.add(row(0))
    late = Row(1, 0, 0, 1000, 1000, Chunking(1.0, 8))
    s.add(late)
    s.admit()
    plan = s.plan()
    assert (plan.steps, plan.postpone) == (8, True)
    slow = scheduler(chunk_delay=0.0045)
    slow.add(row(0, message=8))
    slow.admit()
    assert slow.plan().steps == 8
    slow.add(row(1, message=None))
    slow.admit()
    assert slow.plan().steps == 4


def test_short_runs_for_newcomers_count_for_the_round_and_end_with_it() -> None:
    """Others are delivered as often as without newcomers, however many come."""
    s = scheduler(max_rows=99, max_batch=99, chunk_delay=0.0205)
    s.add(row(0))
    rounds, steps = [], 0
    for number in range(1, 60):
        s.add(newcomer(number, forced=0))
        s.admit()
        plan = s.plan()
        for r in plan.rows:
            r.fresh = False
        steps += plan.steps
        if not plan.postpone:
            rounds.append(steps)
            steps = 0
    assert len(rounds) > 5
    assert set(rounds) == {20}


def test_a_newcomer_whose_prompt_takes_the_round_anyway_delays_nobody() -> None:
    s = scheduler(chunk_delay=0.0205)
    s.add(row(0))
    s.add(newcomer(1, forced=12))
    s.admit()
    plan = s.plan()
    assert (plan.steps, plan.postpone) == (20, False)


def test_a_long_prompt_is_read_in_an_area_of_its_own() -> None:
    s = scheduler(max_rows=4, max_batch=4)
    reader = newcomer(0, forced=5000)
    s.add(reader)
    s.add(row(1))
    s.admit()
    assert reader.status is Status.PREFILL
    areas = []
    while reader.forced_left:
        plan = s.plan()
        areas.append(plan.area)
        if plan.area is Area.PREFILL:
            assert plan.steps <= reader.forced_left
            reader.forced_left -= plan.steps
    assert areas.count(Area.DECODE) - areas.count(Area.PREFILL) in (0, 1)
    assert s.finish_prefill(reader) is None
    assert (reader.status, reader.slot) == (Status.DECODE, 1)


def test_reading_gets_its_share_of_a_round_and_all_time_without_others() -> None:
    s = scheduler(chunk_delay=0.0405)
    reader = newcomer(0, forced=50_000)
    s.add(reader)
    s.add(row(1))
    s.admit()
    assert [s.plan().steps, s.plan().steps] == [int(40 * (1 - PREFILL_SHARE)), int(40 * PREFILL_SHARE)]
    s.end(s.decode_rows[0])
    assert s.plan().steps == 40
    slow = scheduler(chunk_delay=10)
    slow.add(newcomer(0, forced=50_000))
    slow.admit()
    assert slow.plan().steps == MAX_PREFILL_STEPS


def test_no_reader_runs_beyond_its_prompt_and_a_reader_too_many_reads_among_the_others() -> None:
    s = scheduler(max_rows=100, max_batch=100, chunk_delay=10)
    rows = [newcomer(n, forced=LONG_PROMPT + n) for n in range(PREFILL_ROWS + 1)]
    for r in rows:
        s.add(r)
    s.admit()
    assert [r.status for r in rows] == [Status.PREFILL] * PREFILL_ROWS + [Status.DECODE]
    plans = [s.plan(), s.plan()]
    (reading,) = (plan for plan in plans if plan.area is Area.PREFILL)
    assert reading.steps == LONG_PROMPT


def test_no_run_is_longer_than_its_longest_row_or_the_limit() -> None:
    s = scheduler(chunk_delay=10)
    s.add(row(0, chars=7))
    s.add(row(1, chars=3))
    s.admit()
    plan = s.plan()
    assert plan.steps == 7
    s.add(row(2, chars=10_000, credit=10_000))
    s.admit()
    assert s.plan().steps == MAX_STEPS


def test_only_a_row_without_others_has_the_longest_runs() -> None:
    s = scheduler(chunk_delay=10)
    s.add(row(0))
    s.admit()
    assert s.plan().steps == LONE_STEPS
    s.add(row(1))
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


def test_a_row_that_went_beyond_its_credit_waits_until_it_has_some() -> None:
    s = scheduler()
    slow = row(0)
    s.add(slow)
    s.admit()
    slow.credit = -40
    assert not slow.can_run
    s.pause(slow)
    s.grant(slow, 40)
    assert s.admit() == []
    s.grant(slow, 1)
    assert s.admit() == [slow]


def test_runs_get_longer_while_the_event_loop_is_behind_and_shorter_again() -> None:
    s = scheduler(max_rows=256, max_batch=16, chunk_delay=0.02)
    for n in range(256):
        s.add(row(n))
    s.admit()
    assert s.plan().steps == 1
    for _ in range(100):
        longest = s.plan(behind=True)
    assert longest.steps == MAX_STEPS
    for _ in range(100):
        s.plan()
    assert s.plan().steps == 1


def test_a_stretched_run_is_never_longer_than_a_newcomer_may_wait() -> None:
    s = Scheduler(runs(16, 16), 0.02, lambda rows, full: 0.004)
    s.add(row(0))
    s.admit()
    assert s.plan().steps == 5
    for _ in range(100):
        s.plan(behind=True)
    assert s.plan(behind=True).steps == int(LONGEST_STRETCHED / 0.004)
    for _ in range(10):
        s.plan()
    assert s.plan().steps == 5


def device(max_rows: int = 8, newcomers: int = 8) -> RunLimits:
    """As of a store on a device."""
    return RunLimits(max_rows, max_rows, (4, 16, 64), (4, 16), 16 * max_rows, 0, newcomers, overlaps=True)


@pytest.mark.parametrize(
    ("seconds", "chars", "full", "steps"),
    [
        (0.1, 1000, False, 64),
        (0.0635, 1000, False, 16),
        (0.015, 1000, False, 4),
        (0.001, 1000, False, 4),  # none fits: the smallest
        (0.1, 17, False, 64),
        (0.1, 16, False, 16),
        (0.1, 3, False, 4),
        (0.0635, 64, False, 16),
        (0.1, 1000, True, 16),
    ],
)
def test_a_run_has_the_largest_number_of_steps_that_fits_and_is_needed(
    seconds: float, chars: int, full: bool, steps: int
) -> None:
    s = Scheduler(device(), seconds, lambda rows, full: STEP)
    one = row(0, chars=chars)
    one.full = full
    s.add(one)
    s.admit()
    assert s.plan().steps == steps


def test_a_newcomers_first_run_has_the_fewest_steps_that_cover_its_prompt() -> None:
    s = Scheduler(device(), 1.0, lambda rows, full: STEP)
    s.add(row(0))
    for number, (forced, steps, postpone) in enumerate([(0, 4, True), (1, 16, True), (12, 16, True), (13, 64, False)]):
        s.add(newcomer(number, forced))
        s.admit()
        plan = s.plan()
        assert (plan.steps, plan.postpone) == (steps, postpone)
        s.end(s.decode_rows[-1])


def test_no_more_come_in_with_a_run_than_there_is_room_for_and_none_reads_apart() -> None:
    s = Scheduler(device(newcomers=3), 0.02, lambda rows, full: STEP)
    rows = [newcomer(n, forced=5000) for n in range(8)]
    for r in rows:
        s.add(r)
    assert [s.admit() for _ in range(4)] == [rows[:3], rows[3:6], rows[6:], []]
    assert {r.status for r in rows} == {Status.DECODE}
    assert len(s.plan().rows) == 8


def test_one_limited_row_takes_its_group_to_the_full_graph() -> None:
    s = scheduler()
    s.add(row(0))
    s.admit()
    assert not s.plan().full
    limited = row(1)
    limited.full = True
    s.add(limited)
    s.admit()
    assert s.plan().full


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
    slots: dict[Status, dict[int, Row]] = {Status.DECODE: {}, Status.PREFILL: {}}  # what arrays would hold
    for number in range(60):
        alive = [r for r in rows if r.status is not Status.ENDED]
        match rng.choice(("add", "admit", "end", "pause", "grant", "finish_prefill")):
            case "add":
                rows.append(row(number, forced=rng.choice([0, 5, LONG_PROMPT, 1000])))
                s.add(rows[-1])
            case "admit":
                for r in s.admit():
                    slots[r.status][r.slot] = r
            case "grant" if alive:
                s.grant(rng.choice(alive), 5)
            case "end" if alive:
                leave(rng.choice(alive), slots, s.end)
            case "pause" if s.decode_rows:
                leave(rng.choice(s.decode_rows), slots, s.pause)
            case "finish_prefill" if s.prefill_rows:
                reader = rng.choice(s.prefill_rows)
                reader.forced_left = 0
                leave(reader, slots, s.finish_prefill)
                slots[Status.DECODE][reader.slot] = reader
        for area, held in ((s.decode_rows, slots[Status.DECODE]), (s.prefill_rows, slots[Status.PREFILL])):
            assert [r.slot for r in area] == list(range(len(area)))
            assert held == dict(enumerate(area))
        assert len(s.decode_rows) + len(s.prefill_rows) <= max_rows
        assert s.queue.waiting == sum(r.status is Status.WAITING for r in rows)


def leave(chosen: Row, slots: dict[Status, dict[int, Row]], how: object) -> None:
    """Takes a row out of its area, and does with `slots` what the arrays do."""
    slot, area = chosen.slot, slots.get(chosen.status)
    move = how(chosen)  # type: ignore[operator]
    if move:
        area[move.target] = area.pop(move.source)
    elif area is not None:
        area.pop(slot)
