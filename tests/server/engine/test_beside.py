"""What the host does while a device runs, and what an event loop does not keep up with."""

import time

import pytest

from bundle.manifest import Manifest, Precision
from server.engine.step_timer import StepTimer
from server.runtime.device_arrays import DeviceArrays, Kind
from tests.server.engine_driver import EngineDriver, WatchedRunner, generation

Files = tuple[Manifest, dict[str, bytes]]


def test_a_device_does_not_wait_until_the_last_run_is_delivered(
    device_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run goes on until what the one before made has come, which would be never if it came after it."""
    manifest, runner, waited = device_files[0], WatchedRunner(*device_files, "fp32-cuda"), list[bool]()
    real = DeviceArrays.run

    def run(arrays: DeviceArrays, kind: Kind, *, captured: bool) -> object:
        before, end = len(waited), time.monotonic() + 10
        while len(text.parts) < before and time.monotonic() < end:
            time.sleep(0.001)
        waited.append(len(text.parts) >= before)
        return real(arrays, kind, captured=captured)

    with EngineDriver(runner, manifest, chunk_delay=10.0) as driver:
        text = driver.ask(generation(manifest, max_chars=300))
        monkeypatch.setattr(DeviceArrays, "run", run)
        driver.finish()
    assert len(waited) > 4
    assert all(waited)
    assert len(str(text)) == 300


def test_a_stop_string_that_comes_to_light_beside_the_next_run_ends_the_text(device_files: Files) -> None:
    manifest, runner = device_files[0], WatchedRunner(*device_files, "fp32-cuda")
    with EngineDriver(runner, manifest, chunk_delay=10.0) as driver:
        whole = driver.ask(generation(manifest, max_chars=400, seed=1))
        driver.finish()
    stop = str(whole)[70:75]
    with EngineDriver(runner, manifest, chunk_delay=10.0) as driver:
        stopped = driver.ask(generation(manifest, max_chars=400, seed=1, stop=[stop]))
        others = [driver.ask(generation(manifest, max_chars=400, seed=1)) for _ in range(3)]
        driver.finish()
    assert str(stopped) == str(whole)[: str(whole).index(stop)]
    assert {str(other) for other in others} == {str(whole)}
    assert runner.runs[-1].rows == 3, "its row was freed"


@pytest.mark.parametrize("precision", ["fp32", "fp32-cuda"])
def test_what_the_event_loop_has_not_handled_makes_the_next_message_longer(
    device_files: Files, precision: Precision
) -> None:
    manifest, runner = device_files[0], WatchedRunner(*device_files, precision)

    def parts(late: int) -> list[list[str]]:
        with EngineDriver(runner, manifest, late=late) as driver:
            texts = [driver.ask(generation(manifest, max_chars=3000, seed=seed)) for seed in range(2)]
            driver.finish()
        return [text.parts for text in texts]

    at_once, late = parts(0), parts(8)
    assert ["".join(text) for text in late] == ["".join(text) for text in at_once]
    assert sum(map(len, late)) < sum(map(len, at_once)) / 3


def test_texts_that_are_given_up_leave_nothing_in_the_engine(device_files: Files) -> None:
    """Though parts of them are not delivered yet."""
    manifest, runner = device_files[0], WatchedRunner(*device_files, "fp32-cuda")
    with EngineDriver(runner, manifest, chunk_delay=10.0) as driver:
        texts = [driver.ask(generation(manifest, max_chars=3000, seed=seed), leave=2) for seed in range(4)]
        last = driver.ask(generation(manifest, max_chars=200, seed=9), at=6)
        driver.finish()
    assert last.finish
    assert all(text.cancelled for text in texts)
    assert driver.engine._scheduler.free == driver.engine._store.limits.max_rows
    assert not driver.engine._sequences


def test_a_busy_host_does_not_make_a_devices_runs_look_longer() -> None:
    """They would get shorter for it, and the host busier."""
    host, device = StepTimer(lambda rows: rows), StepTimer(lambda rows: rows, shortest=True)
    for clock in (host, device):
        clock.measure(8, False, 64, 0.0128)
        for _ in range(100):
            clock.measure(8, False, 4, 0.008)
    assert device.step_seconds(8, False) == pytest.approx(0.0002)
    assert host.step_seconds(8, False) == pytest.approx(0.002, rel=0.01)
