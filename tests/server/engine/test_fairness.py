"""Who asks for much takes nothing from who asks for little."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.manifest import Manifest, Precision
from server.engine.plan import PREFILL_ROWS, Chunking, Row, Status
from server.engine.scheduler import LONG_PROMPT, Scheduler
from tests.server.engine.test_scheduler import runs
from tests.server.engine_driver import EngineDriver, WatchedRunner, generation

Files = tuple[Manifest, dict[str, bytes]]


def scheduler(max_rows: int) -> Scheduler[Row]:
    return Scheduler(runs(max_rows, max_rows), 0.02, lambda rows, full: 0.001)


def row(stream: int, identity: str, *, forced: int = 0, credit: int = 1000) -> Row:
    return Row(stream, forced, forced, 1000, credit, Chunking(1.0), identity=identity)


def share(s: Scheduler[Row]) -> None:
    """What the engine does before two runs: where a slot became free, it is given away before one is taken back."""
    for _ in range(2):
        for r in s.rows_to_preempt():
            s.preempt(r)
        s.admit()


def held(s: Scheduler[Row]) -> Counter[str]:
    return Counter(r.identity for r in [*s.decode_rows, *s.prefill_rows])


def test_a_newcomer_gets_a_slot_from_who_has_most() -> None:
    s = scheduler(8)
    for n in range(20):
        s.add(row(n, "flood"))
    share(s)
    s.add(row(20, "quiet"))
    share(s)
    assert held(s) == {"flood": 7, "quiet": 1}


def test_slots_go_back_when_the_others_have_ended() -> None:
    s = scheduler(4)
    flood, quiet = [row(n, "flood") for n in range(4)], row(9, "quiet")
    for r in flood:
        s.add(r)
    share(s)
    s.add(quiet)
    share(s)
    assert [r.status for r in flood].count(Status.PAUSED) == 1
    s.end(quiet)
    share(s)
    assert held(s) == {"flood": 4}


def test_who_gave_way_goes_on_before_the_same_identitys_next_text_begins() -> None:
    s = scheduler(2)
    first, second, quiet = row(0, "flood"), row(1, "flood"), row(2, "quiet")
    s.add(first)
    s.add(second)
    share(s)
    s.add(row(3, "flood"))
    s.add(quiet)
    share(s)
    assert second.status is Status.PAUSED
    s.end(quiet)
    share(s)
    assert second.status is Status.DECODE


@given(st.data())
def test_slots_are_shared_equally_and_never_idle(data: st.DataObject) -> None:
    """Whatever comes and goes: identities that want more hold no less than others but for one slot."""
    max_rows = data.draw(st.integers(1, 9))
    s, rows = scheduler(max_rows), list[Row]()
    for n in range(data.draw(st.integers(1, 60))):
        identity = data.draw(st.sampled_from("aaabc"))
        rows.append(row(n, identity, forced=data.draw(st.sampled_from([0, LONG_PROMPT]))))
        s.add(rows[-1])
        if data.draw(st.booleans()):
            gone = rows.pop(data.draw(st.integers(0, len(rows) - 1)))
            s.end(gone)
        share(s)
        wanting = {r.identity for r in rows if r.slot < 0}
        slots = held(s)
        assert sum(slots.values()) == min(max_rows, len(rows))
        assert len(s.prefill_rows) <= PREFILL_ROWS
        for poor in wanting:
            assert max(slots.values()) <= slots[poor] + 1
        for area in (s.decode_rows, s.prefill_rows):
            assert [r.slot for r in area] == list(range(len(area)))


@pytest.mark.parametrize("precision", ["fp32", "fp32-cuda"])
def test_giving_way_changes_no_text(device_files: Files, precision: Precision) -> None:
    """Rows of many identities in few slots, with short and long prompts, and checkpoints."""
    manifest, runner = device_files[0], WatchedRunner(*device_files, precision)
    rng = random.Random(0)
    wanted = [
        (
            rng.choice(["flood", "flood", "a", "b"]),
            generation(
                manifest, "To be. " * rng.choice([0, 1, 30]), rng.randrange(20, 200), seed=n, checkpoint_chars=64
            ),
        )
        for n in range(24)
    ]

    def texts(max_rows: int, *, identities: bool) -> tuple[list[str], int]:
        with EngineDriver(runner, manifest, max_rows=max_rows, chunk_delay=0.004) as driver:
            asked = [
                driver.ask(one, at=3 * n, window=256, identity=identity if identities else "")
                for n, (identity, one) in enumerate(wanted)
            ]
            driver.finish()
        return [str(text) for text in asked], len(runner.runs)

    assert texts(3, identities=True)[0] == texts(24, identities=False)[0]
