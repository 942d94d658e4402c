"""Runs against a server that stalls: an open loop shows it, a closed one does not (coordinated omission)."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos import charstream_pb2 as pb
from tests.client.scripted import finish, serving, text
from tests.loadtest.test_runs import locust

pytestmark = pytest.mark.slow

RATE, USERS, STALL_SECONDS = 30, 4, 2.0


class Stalling:
    """Answers at once, but for one stall of two seconds, in which all wait."""

    def __init__(self) -> None:
        self._lock, self._begin = threading.Lock(), 0.0

    def __call__(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        with self._lock:
            self._begin = self._begin or time.monotonic()
            if time.monotonic() - self._begin > 1.0 and self._begin > 0:
                self._begin = float("inf")
                time.sleep(STALL_SECONDS)
        yield from text("abc")
        time.sleep(0.02)
        yield finish(3)


def first_characters(folder: Path, *flags: str) -> dict[str, Any]:
    with serving(Stalling()) as server:
        done = locust(server.address, "--warmup", "0", "--result", str(folder / "result"), *flags, seconds=6)
    assert done.returncode == 0, done.stdout + done.stderr
    run: dict[str, Any] = json.loads((folder / "result").read_text())["runs"][0]
    return run


def test_a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one(tmp_path: Path) -> None:
    opened = first_characters(tmp_path, "--scenario", "open", "--rate", str(RATE), "--arrivals", "constant")
    closed = first_characters(tmp_path)
    first = {name: run["measures"]["first"] for name, run in (("open", opened), ("closed", closed))}
    # Of six seconds two were stalled: a quarter of the arrivals waited for half a second and more.
    assert first["open"]["p90"] > 1000 * STALL_SECONDS / 2
    assert first["open"]["count"] > 4 * RATE
    # Each user was stalled once at most, between hundreds of quick texts.
    assert first["closed"]["p90"] < 1000 * STALL_SECONDS / 2
    assert first["closed"]["max"] > 1000 * STALL_SECONDS / 2


def test_arrivals_beyond_what_may_be_in_flight_are_counted_as_unsent(tmp_path: Path) -> None:
    run = first_characters(tmp_path, "--scenario", "open", "--rate", "40", "--most-streams", "10")
    assert run["figures"]["unsent"] > 10


def test_a_trace_is_replayed_with_its_lengths_at_its_times(tmp_path: Path) -> None:
    asked: list[tuple[int, int, float]] = []

    def note(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        asked.append((len(request.prompt), request.max_chars, time.monotonic()))
        yield from text("a" * request.max_chars)
        yield finish(request.max_chars)

    calls = [(0.2, 0, 7), (0.3, 50, 9), (1.5, 3, 8)]
    lines = [json.dumps({"time": at, "prompt_chars": prompt, "max_chars": chars}) for at, prompt, chars in calls]
    (tmp_path / "trace").write_text("\n".join(lines))
    with serving(note) as server:
        done = locust(
            server.address, "--scenario", "replay", "--trace", str(tmp_path / "trace"), "--warmup", "0", seconds=3
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each[:2] for each in asked] == [(0, 7), (50, 9), (3, 8)]
    assert asked[2][2] - asked[1][2] > 1.0


def test_a_wrong_text_fails_the_run_and_both_texts_are_shown() -> None:
    seen: set[int] = set()

    def forgetful(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        yield from text("abd" if request.seed in seen else "abc")
        seen.add(request.seed)
        yield finish(3)

    with serving(forgetful) as server:
        done = locust(server.address, seconds=2)
    assert done.returncode == 1
    assert "received before 'abc', now 'abd'" in done.stderr
    assert "DIFFERED" in done.stdout
