"""The comparison with other servers: what it reports of a peer, and that nothing of a run is lost or dropped."""

from pathlib import Path

import pytest

from benchmarks.peers.__main__ import measure_all
from benchmarks.peers.journal import Journal
from benchmarks.peers.measure import Bench, greedy_text
from benchmarks.peers.report import write_report
from benchmarks.peers.table import Load, Peer

CHARS = 24
HEAD = {"commit": "abc", "machine": "a machine", "bundle": "0" * 64, "seconds": 0.4, "chars": CHARS}
SERVER = ("{python}", "-m", "benchmarks.peers.servers.grpc_server", "--bundle", "{bundle}", "--port", "{port}")
# The bare gRPC server in the project's own environment, one that ends at once, and one that was not installed.
PLAYED = Peer("played", "a played peer", "", "charstream", SERVER, "none", (Load(2, 1), Load(2, 8)))
BROKEN = Peer("broken", "a broken peer", "", "charstream", ("{python}", "-c", "1"), "none")
ABSENT = Peer("absent", "an absent peer", "ray", "http", SERVER, "none")


def test_peers_are_measured_checked_and_reported_and_a_run_goes_on_where_it_was(bundles: Path, tmp_path: Path) -> None:
    bundle, file = bundles / "tiny", tmp_path / "results.jsonl"
    bench = Bench(tmp_path, bundle, tmp_path, seconds=0.4, client="", chars=CHARS, settle=0.2)
    peers, reasons = (PLAYED, BROKEN, ABSENT), {"ray": "no such version"}
    journal = Journal(file, HEAD)
    measure_all(bench, peers, reasons, journal, rounds=1)
    with file.open("a") as stream:
        stream.write('{"round": 1, "pe')  # it was interrupted

    (found,) = journal.results("played")
    for chunk in (1, 8):
        load = found["loads"][f"2x{chunk}"]
        assert load["texts"] >= 2
        assert load["speed"] == pytest.approx(chunk * load["messages"])
    assert found["loads"]["2x8"]["wrong"] == found["loads"]["2x8"]["failures"] == 0
    assert found["loads"]["2x1"]["first_ms"][1] > 0

    again = Journal(file, HEAD)
    assert again.results("played") == [found]
    assert again.has(0, "played")
    assert not again.has(0, "broken")  # what failed is tried again
    greedy = dict.fromkeys(("step", "int8"), greedy_text(bundle, "step", CHARS))
    page = write_report(tmp_path / "docs", peers, again, bundle, greedy).read_text()
    assert "| a broken peer | the server's process has ended" in page
    assert "| an absent peer | not installed: no such version" in page
    assert f"| a played peer | {CHARS} of {CHARS} |" in page
    assert (tmp_path / "docs" / "benchmarks" / "speed.svg").read_text().count("<svg") == 1

    assert Journal(file, HEAD | {"commit": "def"}).results("played") == []
    assert file.with_suffix(".before.jsonl").exists()


def test_every_environment_is_locked_to_exact_versions() -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "peers" / "requirements"
    lines = [line for file in folder.glob("*.txt") for line in file.read_text().splitlines()]
    assert lines
    assert [line for line in lines if line.count("==") != 1 or "@" in line or "://" in line] == []
