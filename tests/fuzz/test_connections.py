"""The same bytes over real connections: documented statuses only, and the server is afterwards what it was before."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fuzzing.connections import Target, flags_of, send_inputs
from benchmarks.fuzzing.requests import request_surfaces
from benchmarks.fuzzing.surfaces import CONNECTED
from bundle.manifest import Manifest
from tests.conftest import ready, start_server, stop

Files = tuple[Manifest, dict[str, bytes]]
INPUTS = 250


@pytest.fixture(scope="module")
def target(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server with small limits; it must end at once when it drains, which it cannot with a text left over."""
    process = start_server(bundles, *flags_of(tmp_path_factory.mktemp("keys") / "keys"))
    try:
        yield Target(ready(process).address, process.process.pid, lambda: process.log)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert "the grace is over" not in process.log
    finally:
        stop(process)


@pytest.mark.parametrize("name", CONNECTED)
def test_strange_bytes_get_documented_statuses_and_leave_nothing(target: Target, tiny_files: Files, name: str) -> None:
    (surface,) = (surface for surface in request_surfaces(tiny_files[0]) if surface.name == name)
    statuses = send_inputs(surface, target, [surface.input(number) for number in range(INPUTS)])
    assert statuses.total() == INPUTS
    assert {"OK", "INVALID_ARGUMENT"} <= set(statuses), "both sides must be reached"
