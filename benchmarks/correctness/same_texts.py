"""Compare what this checkout computes with what another one computed, bit for bit: two training runs and 200 calls.

    python -m benchmarks.correctness.same_texts FOLDER --record --checkout OTHER
    python -m benchmarks.correctness.same_texts FOLDER

The first command trains, exports and serves with the code of OTHER and keeps everything in FOLDER. The second one
trains and exports with this checkout, and answers the recorded calls from the recorded bundles, old resume tokens
included. Exit code 0: nothing differs.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from benchmarks.support.load import open_stub
from benchmarks.support.servers import ServerProcess, serving
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
KINDS: dict[str, Any] = {"GenerateRequest": pb.GenerateRequest, "ScoreRequest": pb.ScoreRequest}
# The symbols of prompts by bundle; those of the corpus where there are none.
SYMBOLS = {"lstm": "", "gru-bytes": string.ascii_letters + " é漢\n"}
MakeRequest = Callable[[random.Random, str, list[bytes]], pb.GenerateRequest]
Answer = dict[str, Any]  # the texts of a call by index, each with its fields; or the status of an error


def corpus() -> str:
    """Return an invented text with some structure."""
    rng = random.Random(0)
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 8))) for _ in range(200)]
    lines = (" ".join(rng.choices(words, k=rng.randint(3, 9))).capitalize() + rng.choice(".!?") for _ in range(2500))
    return "\n".join(lines) + "\n"


def train_and_export(checkout: Path, folder: Path) -> dict[str, str]:
    """Train and export with one thread, so that sums have one order; return the sha256 of each file by its path."""
    (folder / "corpus.txt").write_text(corpus())
    own = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "CHARSTREAM_CACHE": str(folder / "cache")}
    for name, flags in RUNS.items():
        train = ("train", "--data", "corpus.txt", "--out", f"runs/{name}", *TRAIN, *flags)
        for command in (train, ("export", f"runs/{name}")):
            arguments = [sys.executable, "-m", "charstream", *command]
            subprocess.run(arguments, cwd=folder, env=os.environ | own, check=True, stdout=sys.stderr)
    files = [*folder.glob("runs/*/*.safetensors"), *folder.glob("bundles/*/*.onnx")]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


def serve(checkout: Path, folder: Path, name: str, precision: str) -> ServerProcess:
    flags = ("--precision", precision, "--resume-keys", str(folder / "keys"), "--threads", "1")
    return serving(folder / "bundles" / name, *flags, checkout=checkout)


def generate_request(rng: random.Random, symbols: str, tokens: list[bytes]) -> pb.GenerateRequest:
    """Return a request in which each field is set now and then."""
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


async def answer(stub: pb_grpc.TextGenerationStub, request: pb.GenerateRequest | pb.ScoreRequest) -> Answer:
    """Make a call; return everything that came, however it was cut into messages, without times.

    A resume token's bytes depend on where runs ended: the text to which it leads stands for it.
    """
    call = stub.Generate(request) if isinstance(request, pb.GenerateRequest) else stub.Score(request)
    texts: dict[int, Answer] = {}
    try:
        async for message in call:
            add(texts.setdefault(getattr(message, "index", 0), {}), message)
    except grpc.aio.AioRpcError as error:
        return {"status": error.code().name, "details": error.details()}
    for text in texts.values():
        for token in (text[name] for name in ("token", "checkpoint") if text.get(name)):
            more = pb.GenerateRequest(resume_token=bytes.fromhex(token), max_chars=GO_ON_CHARS, seed=1)
            extend(text, "goes on", ["".join([message.text async for message in stub.Generate(more)])])
    return {str(index): text for index, text in sorted(texts.items())}


def add(text: Answer, message: pb.GenerateResponse | pb.ScoreResponse) -> None:
    """Add a message to what came of its text."""
    end = "summary"
    if isinstance(message, pb.GenerateResponse):
        end = "finish"
        extend(text, "text", message.text)
        if message.HasField("checkpoint"):
            text["checkpoint"] = message.checkpoint.resume_token.hex()
        if message.HasField("started"):
            text["started"] = message.started.SerializeToString(deterministic=True).hex()
    extend(text, "raw", message.raw.hex())
    extend(text, "logprobs", [value.hex() for value in message.logprobs.chosen])
    places = [[place.chars, [value.hex() for value in place.logprobs]] for place in message.logprobs.alternatives]
    extend(text, "alternatives", places)
    if message.HasField(end):
        summary = type(getattr(message, end))()
        summary.CopyFrom(getattr(message, end))
        text["token"] = summary.resume_token.hex()
        summary.ClearField("timings")
        summary.ClearField("resume_token")
        text["finish"] = summary.SerializeToString(deterministic=True).hex()


def extend(text: Answer, field: str, more: Any) -> None:
    text[field] = text.get(field, type(more)()) + more


async def record_calls(
    address: str, seed: int, symbols: str, count: int, generate: MakeRequest = generate_request
) -> list[list[Any]]:
    """Make calls one after the other, later ones from tokens of earlier ones; return each with its answer."""
    rng, tokens, calls = random.Random(seed), list[bytes](), list[list[Any]]()
    async with open_stub(address) as stub:
        while len(calls) < count:
            score = rng.random() < 0.2
            request = (score_request if score else generate)(rng, symbols, tokens)
            if not score and not request.HasField("seed") and not request.resume_token:
                continue
            found = await answer(stub, request)
            texts = (text for text in found.values() if isinstance(text, dict))
            tokens += [bytes.fromhex(text["token"]) for text in texts if text["token"]]
            calls.append([type(request).__name__, request.SerializeToString(deterministic=True).hex(), found])
    return calls


async def repeat_calls(address: str, calls: list[list[Any]]) -> list[Answer]:
    """Return the answers to recorded calls, 16 at a time: texts do not depend on who shares the batch."""
    turn = asyncio.Semaphore(16)
    async with open_stub(address) as stub:

        async def repeat(kind: str, request: str) -> Answer:
            async with turn:
                return await answer(stub, KINDS[kind].FromString(bytes.fromhex(request)))

        return await asyncio.gather(*(repeat(kind, request) for kind, request, _ in calls))


def comparable(found: Answer) -> Answer:
    """Return an answer without the tokens, and without what followed a checkpoint, whose place depends on the runs."""
    kept = {}
    for index, text in found.items():
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
    files, calls = train_and_export(checkout, folder), {}
    for seed, (name, precision) in enumerate(SERVERS):
        symbols = SYMBOLS[name] or "".join(sorted(set(corpus())))
        with serve(checkout, folder, name, precision) as server:
            calls[f"{name} {precision}"] = asyncio.run(
                record_calls(server.address, seed, symbols, CALLS // len(SERVERS) + 1)
            )
    (folder / "recorded.json").write_text(json.dumps({"files": files, "calls": calls}, indent=1))
    print(f"recorded: {len(files)} files, {sum(map(len, calls.values()))} calls")


def check(checkout: Path, folder: Path) -> int:
    """Print what differs; return the exit code."""
    recorded = json.loads((folder / "recorded.json").read_text())
    with tempfile.TemporaryDirectory() as fresh:
        found = train_and_export(checkout, Path(fresh))
    files = [file for file, digest in recorded["files"].items() if found.get(file) != digest]
    different = 0
    for name, precision in SERVERS:
        calls = recorded["calls"][f"{name} {precision}"]
        with serve(checkout, folder, name, precision) as server:
            answers = asyncio.run(repeat_calls(server.address, calls))
        pairs = enumerate(zip(calls, answers, strict=True))
        wrong = [number for number, (call, got) in pairs if comparable(call[2]) != comparable(got)]
        different += len(wrong)
        print(f"{name} {precision}: {len(calls)} calls, {len(wrong)} differ {wrong or ''}")
    print(f"trained weights and exported graphs: {len(recorded['files'])} files, {len(files)} differ {files or ''}")
    return 1 if different or files else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.correctness.same_texts", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the record")
    parser.add_argument("--record", action="store_true", help="record instead of comparing")
    parser.add_argument("--checkout", type=Path, default=Path.cwd(), help="whose code is run (default: this folder's)")
    settings = parser.parse_args()
    checkout, folder = settings.checkout.resolve(), settings.folder.resolve()
    if not settings.record:
        return check(checkout, folder)
    record(checkout, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
