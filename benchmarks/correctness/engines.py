"""Make 1,000 calls of one server whose engine is in its own process, and the same of servers with 1, 2 and 3 processes.

    python -m benchmarks.correctness.engines

The calls are of mixed prompts, sampling fields, stops, repetitions, echo, log-probabilities, several texts,
checkpoints, scores, and tokens of earlier calls; each token that comes is followed. The first server gets them one
after the other, the others 16 at a time. Exit code 0: nothing differs.
"""

import argparse
import asyncio
import random
import secrets
import sys
import tempfile
from pathlib import Path

from benchmarks.correctness.same_texts import comparable, generate_request, record_calls, repeat_calls
from benchmarks.support.machine import describe_machine
from benchmarks.support.servers import SYMBOLS, ServerProcess, flags_of, serving, untrained_bundle
from protos import charstream_pb2 as pb

PRECISIONS = ("fp32", "int8")


def mixed_request(rng: random.Random, symbols: str, tokens: list[bytes]) -> pb.GenerateRequest:
    """Return a request as `same_texts` makes it, which now and then ends where the text repeats itself."""
    request = generate_request(rng, symbols, tokens)
    if rng.random() < 0.25:
        request.stop_on_repeat.CopyFrom(pb.Repeat(max_period=rng.randint(1, 8), times=rng.randint(2, 4)))
    return request


def compare(bundle: Path, keys: Path, precision: str, calls: int, engines: list[str]) -> int:
    """Return how many answers of servers with engine processes differ."""

    def serve(number: str) -> ServerProcess:
        return serving(bundle, *flags_of(engines=number, precision=precision, resume_keys=keys, threads=1))

    with serve("0") as server:
        seed = PRECISIONS.index(precision)
        recorded = asyncio.run(record_calls(server.address, seed, SYMBOLS, calls, mixed_request))
    texts = [text for *_, found in recorded for text in found.values() if isinstance(text, dict)]
    chars = sum(len(text.get("text", "")) for text in texts)
    followed = sum(len(text.get("goes on", ())) for text in texts)
    print(f"{precision}: {len(recorded)} calls, {len(texts)} texts, {chars:,} characters, {followed} tokens followed")
    different = 0
    for number in engines:
        with serve(number) as server:
            answers = asyncio.run(repeat_calls(server.address, recorded))
        pairs = enumerate(zip(recorded, answers, strict=True))
        wrong = [index for index, (call, got) in pairs if comparable(call[2]) != comparable(got)]
        different += len(wrong)
        print(f"{precision}, --engines {number}: {len(wrong)} of {len(answers)} differ {wrong[:10] or ''}", flush=True)
    return different


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.correctness.engines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, help="with fp32 and int8 (default: an untrained LSTM 2x128)")
    parser.add_argument("--calls", type=int, default=1000, help="calls in each precision (%(default)s)")
    parser.add_argument("--engines", nargs="+", default=["1", "2", "3"], help="numbers of engine processes")
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS, help="which (both)")
    settings = parser.parse_args()
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder, "keys")
        keys.touch(0o600)
        keys.write_text(secrets.token_hex(32) + "\n")
        # Far from equally probable characters: so a wrong state shows in the text.
        bundle = settings.bundle or untrained_bundle(Path(folder, "engines"), hidden=128, sharpness=40)
        different = [compare(bundle, keys, each, settings.calls, settings.engines) for each in settings.precisions]
    return 1 if any(different) else 0


if __name__ == "__main__":
    sys.exit(main())
