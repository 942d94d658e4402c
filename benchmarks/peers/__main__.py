"""Measure charstream beside what one would have used instead, and write docs/benchmarks.md.

    make peers

Each peer is installed into an environment of its own, with locked versions, and started anew in each round; rounds go
over all peers, forth and back. A peer that cannot be installed, started or read is reported with the reason. An
interrupted run goes on where it was; another commit, or other settings, begin anew.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from benchmarks.peers.environments import CLIENT, EnvironmentFailed, prepare, python_of, versions
from benchmarks.peers.journal import Journal
from benchmarks.peers.measure import CHARS, Bench, greedy_text
from benchmarks.peers.processes import ROOT
from benchmarks.peers.report import write_report
from benchmarks.peers.servers.char_model import graph_file
from benchmarks.peers.table import PEERS, Peer
from benchmarks.support.machine import describe_machine
from bundle.manifest import sha256
from charstream.settings import Settings, fail, parse

COMMAND = "python -m benchmarks.peers"
BEGAN = time.monotonic()
# Large enough that the matmuls count, trained long enough that its texts look like the text's.
TRAINING = ("--layers", "2", "--hidden", "512", "--dropout", "0", "--batch", "16", "--sequence", "64")


class PeersSettings(Settings):
    """Measure charstream beside other servers, on the same trained model and cores."""

    folder: Path = Field(Path(".peers"), description="where environments, the model, logs and results go")
    docs: Path = Field(Path("docs"), description="where benchmarks.md and its plots go")
    data: str = Field("shakespeare", description="the text to train on, as for charstream train")
    minutes: float = Field(2, gt=0, description="minutes of training")
    rounds: int = Field(3, ge=1, description="rounds over all peers, of which the medians are reported")
    seconds: float = Field(3, gt=0, description="seconds that count, of each measurement")
    only: tuple[str, ...] = Field((), description="this peer and no other")
    again: bool = Field(False, description="measure anew what has been measured")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(PeersSettings, argv, command=COMMAND)
    every = {peer.name: peer for peer in PEERS}
    if unknown := [name for name in settings.only if name not in every]:
        fail(COMMAND, f"--only {unknown[0]}: peers are {', '.join(every)}")
    peers = [every[name] for name in settings.only or every]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever ends it, the servers end first
    try:
        reasons = _install(settings.folder, peers)
        bundle, run = _model(settings)
    except (EnvironmentFailed, subprocess.CalledProcessError) as error:
        fail(COMMAND, f"stopped: {error}", code=1)
    bench = Bench(settings.folder, bundle, run, settings.seconds)
    journal = Journal(settings.folder / "results.jsonl", _head(settings, bundle), fresh=settings.again)
    try:
        measure_all(bench, peers, reasons, journal, settings.rounds)
    except KeyboardInterrupt:
        fail(COMMAND, "interrupted; the same command goes on where it was", code=130)
    texts = {graph: greedy_text(bundle, graph) for graph in ("step", "int8") if (bundle / graph_file(graph)).exists()}
    measured = [peer for peer in PEERS if journal.results(peer.name)]
    page = write_report(settings.docs, measured, journal, bundle, texts)
    _say(f"{page}: written")
    return 0


def measure_all(bench: Bench, peers: Sequence[Peer], reasons: dict[str, str], journal: Journal, rounds: int) -> None:
    """Measure each peer once in each round, in an order that alternates; what the journal has is not measured again.

    Args:
        reasons: why an environment could not be installed, by name.
    """
    for number in range(rounds):
        for place, peer in enumerate(list(peers)[:: 1 if number % 2 == 0 else -1]):
            if journal.has(number, peer.name):
                continue
            _say(f"round {number + 1} of {rounds}, {place + 1} of {len(peers)}: {peer.title}")
            if reason := reasons.get(peer.environment):
                result = {"error": f"not installed: {reason}"}
            else:
                result = bench.measure(peer, _say)
            if "error" in result:
                _say(f"  {result['error']}")
            journal.add(number, peer.name, result)


def _install(folder: Path, peers: Sequence[Peer]) -> dict[str, str]:
    """Install the environments; return why some could not be. The readers' own is needed by all."""
    reasons = {}
    _say(f"environment {CLIENT}")
    prepare(folder, CLIENT)
    for environment in sorted({peer.environment for peer in peers} - {""}):
        _say(f"environment {environment}")
        try:
            prepare(folder, environment)
        except EnvironmentFailed as error:
            reasons[environment] = str(error)
            _say(f"  {error}")
    return reasons


def _model(settings: PeersSettings) -> tuple[Path, Path]:
    """Train and export the model unless it is there; return its bundle and its run."""
    bundle, run = settings.folder / "model" / "bundle", settings.folder / "model" / "run"
    if not (bundle / "manifest.json").exists():
        _say(f"a model: LSTM 2x512, {settings.minutes:g} minutes of training")
        out = ("--data", settings.data, "--minutes", f"{settings.minutes:g}", "--out", str(run), "--overwrite")
        _charstream("train", *TRAINING, *out)
        _charstream("export", str(run), "--out", str(bundle), "--overwrite")
    _say(f"the model: {bundle}")
    return bundle, run


def _charstream(*arguments: str) -> None:
    subprocess.run([str(python_of(Path(), "")), "-m", "charstream", *arguments], check=True, cwd=ROOT)


def _head(settings: PeersSettings, bundle: Path) -> dict[str, object]:
    return {
        "commit": _commit(),
        "machine": describe_machine(),
        "bundle": sha256((bundle / "manifest.json").read_bytes()),
        "seconds": settings.seconds,
        "chars": CHARS,
        "versions": {name: versions(name) for name in sorted({peer.environment for peer in PEERS} - {""})},
    }


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    return "unknown"


def _say(text: str) -> None:
    """Print a line of progress, with the time since the command began."""
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
