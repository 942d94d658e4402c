"""`charstream fleet` as a shell sees it: who serves what, and who differs."""

import json
import re
from pathlib import Path

import pytest

from client.commands import fleet
from client.commands.fleet import Member, find_differences
from tests.client.scripted import dead_address
from tests.conftest import Charstream, ServerProcess, ready, start_server, stop


def test_servers_that_serve_the_same_are_a_table(charstream: Charstream, server: ServerProcess) -> None:
    done = charstream("fleet", server.address)
    assert (done.returncode, done.stderr) == (0, "")
    head, row, end = done.stdout.splitlines()
    assert head.split()[:4] == ["server", "health", "charstream", "model"]
    assert row.split()[:2] == [server.address, "SERVING"]
    assert re.search(r" tiny .* [0-9a-f]{12}  0 of 1024 +0$", row)
    assert end == "1 server serves the same"


def test_who_differs_and_who_does_not_answer_is_told(
    charstream: Charstream, server: ServerProcess, bundles: Path
) -> None:
    other = start_server(bundles, "--precision", "int8", "--max-rows", "7")
    try:
        gone = dead_address()
        done = charstream("fleet", server.address, ready(other).address, gone)
        assert done.returncode == 1
        for words in (f"{gone}: no answer: ", "tiny 1: precision", "tiny 1: numerics", "tiny 1: max_rows 7, at"):
            assert words in done.stdout
        answer = json.loads(charstream("fleet", server.address, other.address, "--json").stdout)
        assert len(answer["servers"]) == 2
        assert any("numerics" in line and "do not go on" in line for line in answer["differences"])
    finally:
        stop(other)


def test_the_majority_is_the_measure() -> None:
    members = [Member(f"h{number}", health="SERVING", charstream="1") for number in range(3)]
    assert find_differences(members) == []
    odd = Member("h3", health="NOT_SERVING", charstream="2")
    assert find_differences([*members, odd]) == ["h3: NOT_SERVING", "h3: charstream 2, at 3 others 1"]


async def test_each_record_of_a_name_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loop:
        async def getaddrinfo(self, *_: object, **__: object) -> list[tuple[object, ...]]:
            return [(0, 0, 0, "", ("10.0.0.2", 1)), (0, 0, 0, "", ("10.0.0.1", 1)), (0, 0, 0, "", ("::2", 1, 0, 0))]

    monkeypatch.setattr(fleet.asyncio, "get_running_loop", Loop)
    assert await fleet._records("many.example:1") == [
        ("many.example 10.0.0.1", "10.0.0.1:1", "many.example"),
        ("many.example 10.0.0.2", "10.0.0.2:1", "many.example"),
        ("many.example ::2", "[::2]:1", "many.example"),
    ]
    assert await fleet._records("127.0.0.1:1") == [("127.0.0.1:1", "127.0.0.1:1", "")]
