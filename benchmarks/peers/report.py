"""Writes docs/benchmarks.md and its plots from the results of a run."""

import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.peers.environments import versions
from benchmarks.peers.figures import Figures, Spread
from benchmarks.peers.journal import Journal
from benchmarks.peers.plots import plot_speeds, plot_waits
from benchmarks.peers.servers.char_model import CharModel
from benchmarks.peers.table import DEFAULT_CHUNK, Load, Peer
from models.atomic_files import replacement

__all__ = ["write_report"]

NAMED = {"litserve": "litserve", "ray": "ray", "bentoml": "bentoml", "triton": "nvidia-pytriton", "torch": "torch"}
SCORED_TEXTS = 48
QUIET_CORES = 0.1  # that others may use before the page says so
BUSY_SHARE = 0.5  # of the cores, from which on ratios say nothing
HOW = """\
- **How**: rounds over all, forth and back: {rounds}. Each peer is started anew; of each measurement {seconds:g} s
  count. Texts have {chars} characters, at temperature 0.8; a reader begins a new one when its last one has ended.
  Figures are medians of the rounds, in brackets the lowest and the highest.
"""
BESIDE = """\
- **Beside other work**: other processes used {others:.1f} of {cores} cores meanwhile, so this is a rehearsal: it shows
  that everything runs and that the texts are right, and its speeds and ratios are not to be quoted. The same command
  measures a quiet machine.
"""
SPEEDS = """\
Columns: streams x characters a message. One character a message is how each one's documentation streams; for eight,
the same server was taught to send eight at a time. In process there are no messages: 1 and 64 are the rows of a
batch.
"""
WAITS = """\
Milliseconds, p50 / p99 of all texts of a measurement; in the last columns the 99th percentile of the time between two
messages, messages a second, and CPU seconds a second of the client. A peer whose batches begin and end together keeps
a text waiting until the batch before has ended.
"""
RATIOS = """\
Of charstream's characters a second to the other's, within a round: median, lowest and highest; beside it the same of
the 99th percentile until the first character. The peers' own graphs are fp32, so only the rows of charstream in fp32
compare them at equal precision. "As documented" is charstream with its default messages, the other with one character
a message.
"""
TEXTS = """\
Greedy: how many characters at temperature 0 are those of the exported graph. Nats: the mean negative logarithm of the
sampled characters' probabilities, by the model in fp32; a wrong draw or a lost state would show. Wrong: texts of
another length, or with characters that the model does not have.
"""
COMPARED = """\
All run the same weights with one thread for the model, on the same cores as the client, an asyncio process with
`grpc.aio`, `aiohttp` or `tritonclient`. Those with a graph of their own run the exported step graph in onnxruntime,
fp32, and draw in numpy for the whole batch; "our graph" is charstream's decode graph, which runs and draws all
characters of a message in one call. The Triton of nvidia-pytriton has the Python backend only. Each server is a file
in `benchmarks/peers/servers/`, with the settings of its documentation that were fastest; versions are locked in
`benchmarks/peers/requirements/`.
"""
COMMANDS = """\
```
make peers                                           # all of it; goes on where it was interrupted
python -m benchmarks.peers --only ray --only grpc    # some of it
python -m benchmarks.peers --again --rounds 5        # anew, with more rounds
```
"""
COLUMNS = (Load(1, 1), Load(1, 8), Load(64, 1), Load(64, 8), Load(256, 8))


def write_report(docs: Path, peers: Sequence[Peer], journal: Journal, bundle: Path, greedy: Mapping[str, str]) -> Path:
    """Write the page and its plots; return the page.

    Args:
        greedy: the text at temperature 0, by graph (step, int8), with which each peer's is compared.
    """
    figures = Figures({peer.name: journal.results(peer.name) for peer in peers})
    ran = [peer for peer in peers if not figures.error(peer)]
    plots = docs / "benchmarks"
    plot_speeds(ran, figures, plots / "speed.svg")
    plot_waits(ran, figures, plots / "first-character.svg")
    page = docs / "benchmarks.md"
    parts = (
        *_head(journal, figures, peers),
        *_speeds(peers, figures),
        *_waits(ran, figures),
        *_ratios(ran, figures),
        *_texts(ran, figures, bundle, greedy),
        *_how(peers, journal),
    )
    with replacement(page) as new:
        new.write_text("\n".join(parts) + "\n", "utf-8")
    return page


def _head(journal: Journal, figures: Figures, peers: Sequence[Peer]) -> Iterator[str]:
    head, rounds = journal.head, max(len(results) for results in figures.results.values())
    yield "# Benchmarks: charstream beside what one would have used instead"
    yield ""
    yield "Written by `make peers`, which measures all of it again; not to be edited by hand."
    yield ""
    yield f"- **When and of what**: {_today()}, commit `{head['commit']}`, LSTM 2x512 (`{head['bundle'][:12]}`)."
    yield f"- **Where**: {head['machine']}."
    yield HOW.format(rounds=rounds, seconds=head["seconds"], chars=head["chars"]).rstrip()
    others = figures.others()
    if others > QUIET_CORES:
        yield BESIDE.format(others=others, cores=os.cpu_count()).rstrip()
    yield ""


def _speeds(peers: Sequence[Peer], figures: Figures) -> Iterator[str]:
    yield "## Characters a second"
    yield ""
    yield "![Characters a second at 64 streams, by peer](benchmarks/speed.svg)"
    yield ""
    titles = [_column(load) for load in COLUMNS]
    yield from _table_head("", *titles)
    for peer in peers:
        if error := figures.error(peer):
            yield f"| {peer.title} | {_cell(error)} |" + " |" * (len(COLUMNS) - 1)
            continue
        yield _row(peer.title, *(_speed(peer, load, figures) for load in COLUMNS))
    yield ""
    yield from _default_messages(peers, figures)
    yield SPEEDS.rstrip()
    yield ""


def _default_messages(peers: Sequence[Peer], figures: Figures) -> Iterator[str]:
    """charstream's own default: as many characters a message as come in 20 ms."""
    for peer in (peer for peer in peers if peer.is_ours and not figures.error(peer)):
        found = [(n, figures.speed(peer, Load(n, DEFAULT_CHUNK))) for n in (1, 64, 256)]
        speeds = ", ".join(f"{spread.median:,.0f} at {n}" for n, spread in found if spread)
        yield f"{peer.title}, with messages by its own default (what comes in 20 ms): {speeds}."
        yield ""


def _waits(peers: Sequence[Peer], figures: Figures) -> Iterator[str]:
    yield "## Until the first character"
    yield ""
    yield "![Milliseconds until the first character at 64 streams, by peer](benchmarks/first-character.svg)"
    yield ""
    yield WAITS.rstrip()
    yield ""
    titles = [f"{_column(load)}" for load in COLUMNS]
    yield from _table_head("", *titles, "gap p99, 64 x 8", "messages, 64 x 1", "64 x 8", "client, 64 x 8")
    for peer in (peer for peer in peers if peer.protocol != "lines"):
        gap = figures.percentiles(peer, Load(64, 8), "gaps_ms")
        messages = [figures.value(peer, Load(64, chunk), "messages") for chunk in (1, 8)]
        client = figures.value(peer, Load(64, 8), "client")
        yield _row(
            peer.title,
            *(_wait(peer, load, figures) for load in COLUMNS),
            f"{gap[1].median:,.0f}" if gap else "",
            *(f"{each.median:,.0f}" if each else "" for each in messages),
            f"{client.median:.2f}" if client else "",
        )
    yield ""


def _ratios(peers: Sequence[Peer], figures: Figures) -> Iterator[str]:
    ours = [peer for peer in peers if peer.is_ours]
    yield "## Ratios"
    yield ""
    if figures.others() > BUSY_SHARE * (os.cpu_count() or 1):
        yield "Left out: other processes had more than half of the cores, and ratios of such speeds are chance."
        yield ""
        return
    yield RATIOS.rstrip()
    yield ""
    yield from _table_head("", "streams", "characters a message", "the other", "ratio", "first character p99, ratio")
    for own in ours:
        for streams in (64, 256):
            for chunk in (1, 8):
                load = Load(streams, chunk)
                copies = [peer for peer in peers if peer.is_copy and peer.graph == own.graph]
                yield from _ratio(own, load, _best(copies, load, figures), load, "the copy with our graph", figures)
                alone = [peer for peer in peers if peer.graph == "step" and peer.protocol != "lines"]
                yield from _ratio(own, load, _best(alone, load, figures), load, "the best with its own graph", figures)
        alone = [peer for peer in peers if peer.graph == "step" and peer.protocol != "lines"]
        documented, one = Load(64, DEFAULT_CHUNK), Load(64, 1)
        for other in alone:
            yield from _ratio(own, documented, other, one, "as documented", figures)
    yield ""


def _ratio(own: Peer, load: Load, other: Peer | None, other_load: Load, kind: str, figures: Figures) -> Iterator[str]:
    if other is None or not (speed := figures.ratio(own, load, other, other_load)):
        return
    wait = figures.ratio(own, load, other, other_load, "first_ms")
    chunk = "default, 1" if load.chunk == DEFAULT_CHUNK else str(load.chunk)
    first = _spread(wait, 2) if wait else ""
    yield _row(own.title, str(load.streams), chunk, f"{kind}: {other.title}", f"**{_spread(speed, 2)}**", first)


def _best(peers: Sequence[Peer], load: Load, figures: Figures) -> Peer | None:
    speeds = {peer: spread.median for peer in peers if (spread := figures.speed(peer, load))}
    return max(speeds, key=lambda peer: speeds[peer]) if speeds else None


def _texts(peers: Sequence[Peer], figures: Figures, bundle: Path, greedy: Mapping[str, str]) -> Iterator[str]:
    model = CharModel(bundle)
    yield "## Is it the same text?"
    yield ""
    yield TEXTS.rstrip()
    yield ""
    yield from _table_head("", "greedy", "nats", "wrong texts", "failed texts", "how it batches")
    for peer in peers:
        expected = greedy.get("int8" if peer.graph == "int8" else "step", "")
        same = min((_same(text, expected) for text in figures.greedy(peer)), default=0)
        texts = [text for text in figures.samples(peer) if len(text) == len(expected)][:SCORED_TEXTS]
        wrong, failed, message = figures.failures(peer)
        failures = f"{failed}: {_cell(message)}" if failed else "0"
        nats = f"{model.nats(texts):.2f}" if texts else ""
        yield _row(peer.title, f"{same} of {len(expected)}", nats, str(wrong), failures, peer.batching)
    yield ""


def _same(text: str, expected: str) -> int:
    """Return how many characters of two texts are the same before the first that differs."""
    pairs = enumerate(zip(text, expected, strict=False))
    return next((place for place, (one, two) in pairs if one != two), min(len(text), len(expected)))


def _how(peers: Sequence[Peer], journal: Journal) -> Iterator[str]:
    yield "## What is compared"
    yield ""
    yield COMPARED.rstrip()
    yield ""
    locked = {name: versions(name) for name in sorted({peer.environment for peer in peers} - {""})}
    for name, found in locked.items():
        kept = {key: found[key] for key in (NAMED.get(name, name), "onnxruntime", "numpy", "grpcio") if key in found}
        yield f"- {name}: {', '.join(f'{key} {version}' for key, version in kept.items())}"
    yield ""
    yield COMMANDS.rstrip()


def _column(load: Load) -> str:
    return f"{load.streams} x {load.chunk}"


def _speed(peer: Peer, load: Load, figures: Figures) -> str:
    if load not in peer.loads:
        return "–"
    if error := figures.load_error(peer, load):
        return _cell(error)
    spread = figures.speed(peer, load)
    return _spread(spread, 0) if spread else ""


def _wait(peer: Peer, load: Load, figures: Figures) -> str:
    if load not in peer.loads:
        return "–"
    found = figures.percentiles(peer, load, "first_ms")
    return f"{found[0].median:,.0f} / {found[1].median:,.0f}" if found else ""


def _spread(spread: Spread, digits: int) -> str:
    return f"{spread.median:,.{digits}f} ({spread.low:,.{digits}f}–{spread.high:,.{digits}f})"


def _table_head(*titles: str) -> Iterator[str]:
    yield _row(*titles)
    yield "|" + "---|" * len(titles)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:200]


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
