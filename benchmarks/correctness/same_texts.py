"""Does this checkout compute what another one computed? Two training runs, their bundles, 200 calls, bit for bit.

    python -m benchmarks.correctness.same_texts FOLDER --record --checkout OTHER
    python -m benchmarks.correctness.same_texts FOLDER

The first command trains, exports and serves with the code of OTHER and keeps all in FOLDER. The second one trains
and exports with this checkout, and answers the recorded calls from the recorded bundles, old resume tokens included.
Exit code 0: nothing differs.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

CALLS = 200
GO_ON_CHARS = 40
RUNS = {
    "lstm": ["--cell", "lstm", "--layers", "2", "--dropout", "0.2"],
    "gru-bytes": ["--cell", "gru", "--layers", "1", "--vocabulary", "bytes", "--ema", "0.9"],
}
TRAIN = ["--hidden", "64", "--batch", "8", "--sequence", "32", "--steps", "150", "--precision", "fp32", "--seed", "5"]
SERVERS = [("lstm", "fp32"), ("lstm", "int8"), ("gru-bytes", "int8")]
Message = pb.GenerateResponse | pb.ScoreResponse


def corpus() -> str:
    """An invented text with some structure, so that no corpus has to be there."""
    rng = random.Random(0)
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 8))) for _ in range(200)]
    lines = (" ".join(rng.choices(words, k=rng.randint(3, 9))).capitalize() + rng.choice(".!?") for _ in range(2500))
    return "\n".join(lines) + "\n"


def run(checkout: Path, *command: str, cwd: Path) -> None:
    """Runs a command of the checkout with one thread, so that sums have one order."""
    environment = os.environ | {
        "PYTHONPATH": str(checkout),
        "OMP_NUM_THREADS": "1",
        "CHARSTREAM_CACHE": str(cwd / "cache"),
    }
    subprocess.run(
        [sys.executable, "-m", "charstream", *command], cwd=cwd, env=environment, check=True, stdout=sys.stderr
    )


def train_and_export(checkout: Path, folder: Path) -> dict[str, str]:
    """The sha256 of each run's tensors and of each bundle's files, by path."""
    (folder / "corpus.txt").write_text(corpus())
    for name, flags in RUNS.items():
        run(checkout, "train", "--data", "corpus.txt", "--out", f"runs/{name}", *TRAIN, *flags, cwd=folder)
        run(checkout, "export", f"runs/{name}", cwd=folder)
    files = [*folder.glob("runs/*/*.safetensors"), *folder.glob("bundles/*/*.onnx")]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


@contextmanager
def serving(checkout: Path, folder: Path, name: str, precision: str) -> Iterator[str]:
    """The address of a server with the checkout's code."""
    flags = [
        "--models",
        f"bundles/{name}",
        "--port",
        "0",
        "--precision",
        precision,
        "--resume-keys",
        "keys",
        "--threads",
        "1",
    ]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "server", *flags]
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        for line in process.stderr:
            if "listening on " in line:
                yield line.split("listening on ")[1].split()[0]
                break
        else:
            raise SystemExit(f"the server of {checkout} ended with exit code {process.wait()}")
    finally:
        process.terminate()
        process.communicate()


def generate_request(rng: random.Random, symbols: str, tokens: list[bytes]) -> pb.GenerateRequest:
    """A request in which each field is set now and then."""
    request = pb.GenerateRequest(
        prompt="".join(rng.choices(symbols, k=rng.choice([0, rng.randint(1, 31), rng.randint(32, 300)]))),
        max_chars=rng.choice([1, rng.randint(2, 60), rng.randint(60, 400)]),
        seed=rng.getrandbits(64),
    )
    sampling = {
        "temperature": rng.choice([0.0, 0.5, 0.8, 1.5]),
        "top_k": rng.randint(1, 20),
        "top_p": rng.uniform(0.1, 1),
        "min_p": rng.uniform(0, 0.3),
        "banned": "e",
        "allowed": string.ascii_letters + " .\n",
    }
    for field, value in sampling.items():
        if rng.random() < 0.3:
            setattr(request.sampling, field, value)
    if rng.random() < 0.2:
        request.sampling.bias.of.update({"a": 2.5, "t": -3.0})
    if rng.random() < 0.4:
        request.stop.extend(rng.choice([["e"], ["th", "\n"], ["zzzz", "s "]]))
        request.include_stop = rng.random() < 0.5
        request.min_chars = min(rng.randint(0, 20), request.max_chars)
    if rng.random() < 0.3:
        request.chunking.max_chars = rng.randint(1, 30)
    if rng.random() < 0.3:
        request.logprobs = rng.randint(0, 5)
    request.echo = rng.random() < 0.25
    request.return_token = rng.random() < 0.5
    if rng.random() < 0.3:
        request.checkpoint_chars = 64
    if rng.random() < 0.2:
        request.n = rng.randint(2, 4)
    elif rng.random() < 0.2:
        request.continuation = rng.randint(1, 9)
    if tokens and rng.random() < 0.4:
        request.resume_token = rng.choice(tokens)
        if rng.random() < 0.5:
            request.ClearField("seed")
            request.ClearField("sampling")
    if not request.stop and not request.echo and request.n <= 1 and rng.random() < 0.2:
        request.received = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, request.max_chars)))
    return request


def score_request(rng: random.Random, symbols: str, tokens: list[bytes]) -> pb.ScoreRequest:
    request = pb.ScoreRequest(
        prompt="".join(rng.choices(symbols, k=rng.randint(0, 40))),
        text="".join(rng.choices(symbols, k=rng.randint(1, 600))),
        alternatives=rng.choice([0, 3]),
        return_token=rng.random() < 0.5,
    )
    if tokens and rng.random() < 0.3:
        request.resume_token = rng.choice(tokens)
    return request


async def answer(stub: pb_grpc.TextGenerationStub, request: pb.GenerateRequest | pb.ScoreRequest) -> dict[str, object]:
    """All that came of a call, whatever its messages were cut into, without times.

    A token's bytes depend on where runs ended: it is told by the text to which it leads.
    """
    call = stub.Generate(request) if isinstance(request, pb.GenerateRequest) else stub.Score(request)
    texts: dict[int, dict[str, object]] = {}
    try:
        async for message in call:
            take(texts.setdefault(getattr(message, "index", 0), {}), message)
    except grpc.aio.AioRpcError as error:
        return {"status": error.code().name, "details": error.details()}
    for text in texts.values():
        for token in (str(text[name]) for name in ("token", "checkpoint") if text.get(name)):
            more = pb.GenerateRequest(resume_token=bytes.fromhex(token), max_chars=GO_ON_CHARS, seed=1)
            join(text, "goes on", [[message.text async for message in stub.Generate(more)]])
            text["goes on"][-1] = "".join(text["goes on"][-1])  # type: ignore[index]
    return {str(index): text for index, text in sorted(texts.items())}


def take(text: dict[str, object], message: Message) -> None:
    """Adds a message to what came of its text."""
    if isinstance(message, pb.GenerateResponse):
        join(text, "text", message.text)
        if message.HasField("checkpoint"):
            text["checkpoint"] = message.checkpoint.resume_token.hex()
        if message.HasField("started"):
            text["started"] = message.started.SerializeToString(deterministic=True).hex()
    join(text, "raw", message.raw.hex())
    join(text, "logprobs", [value.hex() for value in message.logprobs.chosen])
    places = [[place.chars, [value.hex() for value in place.logprobs]] for place in message.logprobs.alternatives]
    join(text, "alternatives", places)
    end = "finish" if isinstance(message, pb.GenerateResponse) else "summary"
    if message.HasField(end):
        summary = type(getattr(message, end))()
        summary.CopyFrom(getattr(message, end))
        text["token"] = summary.resume_token.hex()
        summary.ClearField("timings")
        summary.ClearField("resume_token")
        text["finish"] = summary.SerializeToString(deterministic=True).hex()


def join(text: dict[str, object], field: str, more: str | list[object] | list[str]) -> None:
    text[field] = text.get(field, type(more)()) + more  # type: ignore[operator]


async def record_calls(address: str, seed: int, symbols: str) -> list[list[object]]:
    """The calls, one after the other, each with what came of it; later ones go on from tokens of earlier ones."""
    rng, tokens, calls = random.Random(seed), list[bytes](), list[list[object]]()
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        while len(calls) < CALLS // len(SERVERS) + 1:
            score = rng.random() < 0.2
            request = (score_request if score else generate_request)(rng, symbols, tokens)
            if not score and not request.HasField("seed") and not request.resume_token:
                continue
            found = await answer(stub, request)
            tokens += [
                bytes.fromhex(str(text["token"])) for text in found.values() if isinstance(text, dict) and text["token"]
            ]
            calls.append([type(request).__name__, request.SerializeToString(deterministic=True).hex(), found])
    return calls


async def replay(address: str, calls: list[list[object]]) -> list[dict[str, object]]:
    """What comes of recorded calls, 16 at a time: texts do not depend on who shares the batch."""
    turn = asyncio.Semaphore(16)

    async def one(kind: object, request: object) -> dict[str, object]:
        message = {"GenerateRequest": pb.GenerateRequest, "ScoreRequest": pb.ScoreRequest}[str(kind)]()
        message.ParseFromString(bytes.fromhex(str(request)))
        async with turn:
            return await answer(stub, message)

    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        return await asyncio.gather(*(one(kind, request) for kind, request, _ in calls))


def told(answered: dict[str, object]) -> dict[str, object]:
    """An answer without the tokens, and without what came after a checkpoint, whose place depends on the runs."""
    kept = {}
    for index, text in answered.items():
        kept[index] = text
        if isinstance(text, dict):
            kept[index] = {name: value for name, value in text.items() if name not in ("token", "checkpoint")}
            # Whether a text had a checkpoint at all may depend on the runs, too.
            kept[index]["goes on"] = text.get("goes on", [])[: -1 if text.get("checkpoint") else None]
    return kept


def record(checkout: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "keys").write_text("k" * 64 + "\n")
    (folder / "keys").chmod(0o600)
    files = train_and_export(checkout, folder)
    calls = {}
    for seed, (name, precision) in enumerate(SERVERS):
        symbols = string.ascii_letters + " .,\n" if name != "gru-bytes" else string.ascii_letters + " é漢\n"
        if name == "lstm":
            symbols = "".join(sorted(set(corpus())))
        with serving(checkout, folder, name, precision) as address:
            calls[f"{name} {precision}"] = asyncio.run(record_calls(address, seed, symbols))
    (folder / "recorded.json").write_text(json.dumps({"files": files, "calls": calls}, indent=1))
    print(f"recorded: {len(files)} files, {sum(map(len, calls.values()))} calls")


def check(checkout: Path, folder: Path) -> int:
    """Prints what differs; returns the exit code."""
    recorded = json.loads((folder / "recorded.json").read_text())
    with tempfile.TemporaryDirectory() as fresh:
        found = train_and_export(checkout, Path(fresh))
    files = [file for file, digest in recorded["files"].items() if found.get(file) != digest]
    different = 0
    for name, precision in SERVERS:
        calls = recorded["calls"][f"{name} {precision}"]
        with serving(checkout, folder, name, precision) as address:
            answers = asyncio.run(replay(address, calls))
        wrong = [
            number for number, (call, got) in enumerate(zip(calls, answers, strict=True)) if told(call[2]) != told(got)
        ]
        different += len(wrong)
        print(f"{name} {precision}: {len(calls)} calls, {len(wrong)} differ {wrong or ''}")
    print(f"trained weights and exported graphs: {len(recorded['files'])} files, {len(files)} differ {files or ''}")
    return 1 if different or files else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.correctness.same_texts", description=__doc__)
    parser.add_argument("folder", type=Path, help="what is recorded, or was")
    parser.add_argument("--record", action="store_true", help="record instead of comparing")
    parser.add_argument("--checkout", type=Path, default=Path.cwd(), help="whose code is run (default: this folder's)")
    settings = parser.parse_args()
    checkout, folder = settings.checkout.resolve(), settings.folder.resolve()
    if settings.record:
        record(checkout, folder)
        return 0
    return check(checkout, folder)


if __name__ == "__main__":
    sys.exit(main())
