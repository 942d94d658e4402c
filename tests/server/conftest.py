"""Servers with small limits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ServerProcess, ready, start_server, stop


@pytest.fixture(scope="session")
def small_server(bundles: Path) -> Iterator[ServerProcess]:
    """Three rows a run, eight rows, twelve that wait, a small window."""
    flags = (
        "--precision",
        "fp32",
        "--max-batch",
        "3",
        "--max-rows",
        "8",
        "--max-waiting",
        "12",
        "--stream-buffer",
        "256",
    )
    process = start_server(bundles, *flags)
    yield ready(process)
    stop(process)
