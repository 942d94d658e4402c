"""Nobody who waits for characters waits for somebody else's."""

import pytest

from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import Manifest
from server.engine.scheduler import FIRST_CHARS
from tests.server.engine_driver import EngineDriver, WatchedRunner, generation

Files = tuple[Manifest, dict[str, bytes]]
# Long enough that only MAX_STEPS bounds a run.
LONG_DELAY = 10.0


@pytest.fixture(scope="module")
def host(tiny_files: Files) -> WatchedRunner:
    return WatchedRunner(*tiny_files, "fp32")


@pytest.fixture(scope="module", params=["fp32", "fp32-cuda"])
def runner(request: pytest.FixtureRequest, device_files: Files) -> WatchedRunner:
    return WatchedRunner(*device_files, request.param)


def test_a_pause_in_a_short_run_for_a_newcomer_delivers_what_was_held(runner: WatchedRunner, tiny_files: Files) -> None:
    """A reader who has nothing to take never gives credit back: its text would stand for ever."""
    manifest, _ = tiny_files
    with EngineDriver(runner, manifest, chunk_delay=LONG_DELAY) as driver:
        small = driver.ask(generation(manifest, max_chars=200, seed=1), window=2 * FIRST_CHARS + 1, pause=3)
        for run in (1, 2):
            driver.ask(generation(manifest, max_chars=20, seed=run), at=run)
        driver.finish()
    assert [run.steps for run in runner.runs[:3]] == [FIRST_CHARS] * 3
    # Its own first characters; nothing from the run for the first newcomer; both runs' when the second one's has used
    # up the window.
    assert small.came[:2] == [1, 3]
    assert [len(part) for part in small.parts[:2]] == [FIRST_CHARS, 2 * FIRST_CHARS]
    assert len(str(small)) == 200


def test_a_text_of_one_run_is_delivered_though_nothing_comes_after_it(runner: WatchedRunner, tiny_files: Files) -> None:
    with EngineDriver(runner, tiny_files[0]) as driver:
        text = driver.ask(generation(tiny_files[0], max_chars=1))
        driver.finish()
    assert len(str(text)) == len(runner.runs) == 1


@pytest.mark.parametrize("window", [1, 2, FIRST_CHARS, 10])
def test_windows_smaller_than_any_run_stop_nothing(runner: WatchedRunner, tiny_files: Files, window: int) -> None:
    manifest, _ = tiny_files
    with EngineDriver(runner, manifest, max_rows=4, max_batch=2, chunk_delay=LONG_DELAY) as driver:
        texts = [
            driver.ask(generation(manifest, max_chars=60, seed=n), window=window, at=n, pause=n % 3) for n in range(8)
        ]
        driver.finish()
    assert [len(str(text)) for text in texts] == [60] * 8


@pytest.mark.parametrize("prompt", ["", "To be"])
@pytest.mark.parametrize("max_batch", [16, 3])
def test_a_newcomer_has_characters_after_three_runs(
    runner: WatchedRunner, tiny_files: Files, max_batch: int, prompt: str
) -> None:
    """In one batch with eight long texts, and where three groups take turns."""
    manifest, _ = tiny_files
    arrival = 20
    with EngineDriver(runner, manifest, max_rows=9, max_batch=max_batch, chunk_delay=0.005) as driver:
        long = [driver.ask(generation(manifest, max_chars=20_000, seed=n)) for n in range(8)]
        newcomer = driver.ask(generation(manifest, prompt, 500, seed=9), at=arrival)
        driver.finish(newcomer)
    assert newcomer.came[0] - arrival <= 3
    assert all(text.came[-1] > newcomer.came[0] for text in long), "the others were done before"


def test_a_newcomer_does_not_wait_for_a_long_prompt(runner: WatchedRunner, tiny_files: Files) -> None:
    """One reading run may come before its own, and no more."""
    manifest, _ = tiny_files
    with EngineDriver(runner, manifest, chunk_delay=0.005) as driver:
        reader = driver.ask(generation(manifest, "To be, or not. " * 1000, 10))
        driver.ask(generation(manifest, max_chars=3000))
        newcomers = [driver.ask(generation(manifest, max_chars=20, seed=n), at=n) for n in range(4, 24, 4)]
        driver.finish()
    assert reader.came[0] > 30, "it was read before the last newcomer came"
    for text, arrival in zip(newcomers, range(4, 24, 4), strict=True):
        assert text.came[0] - arrival <= 3


@pytest.mark.parametrize("newcomers", [0, 6])
def test_a_long_prompt_does_not_stop_the_others(host: WatchedRunner, tiny_files: Files, newcomers: int) -> None:
    """Between two deliveries of a running text there is at most one run that only reads."""
    manifest, _ = tiny_files
    with EngineDriver(host, manifest, chunk_delay=0.005) as driver:
        running = driver.ask(generation(manifest, max_chars=1_000_000, seed=1))
        reader = driver.ask(generation(manifest, "To be, or not. " * 200, 30, seed=2), at=3)
        for number in range(newcomers):
            driver.ask(generation(manifest, max_chars=20, seed=number), at=5 + 2 * number)
        driver.finish(reader)
    reading = [number for number, run in enumerate(host.runs, 1) if run.is_forced]
    assert len(reading) > 5, "it was read at once"
    assert running.came[-1] > reading[-1], "nobody ran beside it"
    for last, following in zip(running.came, running.came[1:], strict=False):
        assert sum(last < number <= following for number in reading) <= 1


def test_more_newcomers_than_a_device_takes_in_at_once_come_one_run_after_the_other(device_files: Files) -> None:
    """Two come in with a run; a text is what it is, whenever it came in."""
    manifest, runner = device_files[0], WatchedRunner(*device_files, "fp32-cuda")
    with EngineDriver(runner, manifest, max_rows=7, max_batch=2) as driver:
        texts = [driver.ask(generation(manifest, max_chars=40, seed=n % 2)) for n in range(7)]
        driver.finish()
    assert [run.rows for run in runner.runs[:4]] == [2, 4, 6, 7]
    assert {str(text) for text in texts[::2]} == {str(texts[0])}
    assert {str(text) for text in texts[1::2]} == {str(texts[1])}


def test_a_text_that_ends_inside_a_run_of_a_device_is_cut(device_files: Files) -> None:
    manifest, runner = device_files[0], WatchedRunner(*device_files, "fp32-cuda")
    with EngineDriver(runner, manifest, chunk_delay=LONG_DELAY) as driver:
        texts = [driver.ask(generation(manifest, max_chars=chars, seed=chars)) for chars in (1, 3, 5, 17, 65, 70)]
        driver.finish()
    assert [len(str(text)) for text in texts] == [1, 3, 5, 17, 65, 70]
    assert {run.steps for run in runner.runs} <= {*DEVICE_STEPS}
