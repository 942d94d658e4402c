"""A prompt that comes again is not read again, what that takes is bounded, and no text changes."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bundle.manifest import Manifest
from server.engine.messages import RowState
from server.engine.plan import MAX_STEPS
from server.engine.prefix_cache import ARRAY_BYTES, ENTRY_BYTES, PrefixCache
from server.engine.scheduler import LONG_PROMPT
from tests.server.engine_driver import EngineDriver, Run, WatchedRunner, generation

Files = tuple[Manifest, dict[str, bytes]]
HIDDEN = 8
ENTRY = HIDDEN * 4 + ENTRY_BYTES + ARRAY_BYTES


def ids(text: str) -> NDArray[np.int64]:
    return np.array([ord(char) for char in text], np.int64)


def state(prompt: str) -> RowState:
    """One that tells which prompt it is of."""
    return RowState(ord(prompt[-1]), (np.full(HIDDEN, hash(prompt) % 1000, np.float32),), len(prompt))


def found(prefixes: PrefixCache, prompt: str) -> int:
    """How much of the prompt is known; the state must be that of this beginning."""
    known = prefixes.longest(ids(prompt))
    if known is None:
        return 0
    expected = state(prompt[: known.position])
    assert known.token == expected.token
    np.testing.assert_array_equal(known.state, expected.state)
    return known.position


def keeping(*prompts: str, entries: int = 100) -> PrefixCache:
    prefixes = PrefixCache(entries * ENTRY)
    for prompt in prompts:
        prefixes.put(ids(prompt), state(prompt))
    return prefixes


def test_the_longest_known_beginning_is_found() -> None:
    prefixes = keeping("ab", "abcdef", "abcd", "xyz")
    assert [found(prefixes, prompt) for prompt in ("abcdefg", "abcdef", "abcde", "abc", "a", "xyzabcd", "")] == [
        6,
        6,
        4,
        2,
        0,
        3,
        0,
    ]


def test_another_prompt_of_the_same_length_is_not_found() -> None:
    prefixes = keeping("a" * 40)
    assert found(prefixes, "a" * 39 + "b") == 0
    assert found(prefixes, "b" + "a" * 39) == 0
    assert found(prefixes, "b" * 40) == 0


def test_the_least_recently_used_leaves_first() -> None:
    prefixes = keeping("aa", "bb", "cc", entries=3)
    assert found(prefixes, "aa") == 2
    prefixes.put(ids("bb"), state("bb"))
    prefixes.put(ids("dd"), state("dd"))
    assert [found(prefixes, prompt) for prompt in ("aa", "bb", "cc", "dd")] == [2, 2, 0, 2]


@pytest.mark.parametrize("max_bytes", [0, ENTRY - 1])
def test_without_room_for_one_nothing_is_kept(max_bytes: int) -> None:
    prefixes = PrefixCache(max_bytes)
    prefixes.put(ids("ab"), state("ab"))
    assert (len(prefixes), prefixes.bytes) == (0, 0)
    assert found(prefixes, "ab") == 0


def test_many_lengths_are_no_reason_to_miss_the_longest() -> None:
    text = "".join(map(chr, range(40, 1040)))
    prefixes = keeping(*(text[:length] for length in range(1, 1001)), entries=2000)
    assert [found(prefixes, text[:length]) for length in (1, 2, 500, 1000)] == [1, 2, 500, 1000]


PROMPTS = st.text("ab", min_size=1, max_size=5)


@given(st.lists(st.tuples(st.booleans(), PROMPTS), max_size=60), st.integers(0, 6), st.integers(0, ENTRY - 1))
def test_any_sequence_keeps_the_bound_and_what_was_used_last(
    calls: list[tuple[bool, str]], entries: int, rest: int
) -> None:
    prefixes, kept = PrefixCache(entries * ENTRY + rest), OrderedDict[str, None]()
    for put, prompt in calls:
        if put:
            prefixes.put(ids(prompt), state(prompt))
            kept[prompt] = None
            kept.move_to_end(prompt)
            while len(kept) > entries:
                kept.popitem(last=False)
        else:
            known = [prompt[:length] for length in range(len(prompt), 0, -1) if prompt[:length] in kept]
            assert found(prefixes, prompt) == len(known[0] if known else "")
            if known:
                kept.move_to_end(known[0])
        assert len(prefixes) == len(kept)
        assert prefixes.bytes == len(kept) * ENTRY <= prefixes.max_bytes


LINE = "To be, or not to be, that is the question: "
LONG = (LINE * 200)[:5000]


@pytest.fixture(scope="module")
def runner(tiny_files: Files) -> WatchedRunner:
    return WatchedRunner(*tiny_files, "fp32")


def steps(runs: list[Run]) -> int:
    return sum(run.steps for run in runs)


def in_turn(runner: WatchedRunner, manifest: Manifest, prompts: list[str], megabytes: float) -> list[tuple[str, int]]:
    """Each prompt's text, one after the other on one engine, and the steps that it took."""
    results = []
    with EngineDriver(runner, manifest, prefix_bytes=int(megabytes * 1e6)) as driver:
        for prompt in prompts:
            before = steps(runner.runs)
            text = driver.ask(generation(manifest, prompt, 100, seed=3))
            driver.finish()
            results.append((str(text), steps(runner.runs) - before))
    return results


def test_a_prompt_that_comes_again_is_not_read_again(runner: WatchedRunner, tiny_files: Files) -> None:
    (first, read), (again, skipped) = in_turn(runner, tiny_files[0], [LONG, LONG], megabytes=1)
    assert again == first
    assert read >= len(LONG)
    # Its own characters, of which the last run may have some too many.
    assert 100 <= skipped < 100 + MAX_STEPS


def test_only_what_is_new_of_a_prompt_is_read(runner: WatchedRunner, tiny_files: Files) -> None:
    """A conversation that goes on, with little and with much that is new."""
    prompts = [LONG, LONG + "More.", LONG + "More. " * 20, LONG + "Others? " * 20]
    alone = [in_turn(runner, tiny_files[0], [prompt], megabytes=0)[0][0] for prompt in prompts]
    results = in_turn(runner, tiny_files[0], prompts, megabytes=1)
    assert [text for text, _ in results] == alone
    for prompt, (_, taken) in zip(prompts[1:], results[1:], strict=True):
        assert taken < len(prompt) - len(LONG) + 100 + MAX_STEPS


@pytest.mark.parametrize("place", [0, 2500, len(LONG) - 1])
def test_a_prompt_with_one_other_character_is_read(runner: WatchedRunner, tiny_files: Files, place: int) -> None:
    other = LONG[:place] + "#" + LONG[place + 1 :]
    alone = in_turn(runner, tiny_files[0], [other], megabytes=0)[0][0]
    _, (text, taken) = in_turn(runner, tiny_files[0], [LONG, other], megabytes=1)
    assert text == alone
    assert taken >= len(LONG)


def test_without_a_cache_every_prompt_is_read(runner: WatchedRunner, tiny_files: Files) -> None:
    (first, _), (again, taken) = in_turn(runner, tiny_files[0], [LONG, LONG], megabytes=0)
    assert again == first
    assert taken >= len(LONG)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.lists(st.integers(LONG_PROMPT, 300), min_size=2, max_size=6), st.sampled_from([0.003, 0.01, 1.0]))
def test_beginnings_that_come_and_leave_change_no_text(
    runner: WatchedRunner, tiny_files: Files, lengths: list[int], megabytes: float
) -> None:
    prompts = [LONG[:length] for length in lengths]
    with_cache = in_turn(runner, tiny_files[0], prompts, megabytes)
    without = in_turn(runner, tiny_files[0], prompts, 0)
    assert [text for text, _ in with_cache] == [text for text, _ in without]
