"""Compare the texts of random requests through each door: gRPC, server-sent events, and one answer over HTTP.

    python -m benchmarks.correctness.doors [--requests 500] [--bundle FOLDER]

Each text is also cut somewhere and gone on with over HTTP, from what gRPC gave before. Exit code 1 if one differs.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx

from benchmarks.support.servers import given_or_untrained, serving
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

SECONDS = 60
WEB = r'HTTP on ([\w.:[\]-]+)["\s]'


def differences(grpc_address: str, web_address: str, requests: int) -> list[dict[str, Any]]:
    """Return the requests whose text is not the same through each door."""
    rng, different = random.Random(20), []
    web = httpx.Client(base_url=f"http://{web_address}", timeout=SECONDS)
    with web, grpc.insecure_channel(grpc_address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)  # type: ignore[no-untyped-call]
        for _ in range(requests):
            message = random_message(rng)
            wanted = "".join(answer.text for answer in stub.Generate(message))
            body = as_body(message)
            whole = web.post("/v1/completions", json=body).json()["choices"][0]["text"]
            texts = {whole, streamed_text(web, body)}
            if not message.echo and len(wanted) > 1:
                begin = wanted[: rng.randrange(1, len(wanted))]
                body["charstream"]["received"] = begin
                texts.add(begin + streamed_text(web, body))
            if texts != {wanted}:
                different.append(body)
    return different


def random_message(rng: random.Random) -> pb.GenerateRequest:
    sampling = pb.Sampling(
        temperature=rng.choice((0.0, 0.5, 1.0, 1.5)), top_k=rng.choice((0, 5, 40)), top_p=rng.choice((0.5, 1.0)),
        min_p=rng.choice((0.0, 0.02)), banned=rng.choice(("", "e", "aeiou")),
        bias=pb.Bias(of={"t": rng.choice((0, 3))}),
    )  # fmt: skip
    return pb.GenerateRequest(
        prompt=rng.choice(("", "a", "To be, or not to be")), sampling=sampling, seed=rng.randrange(2**64),
        max_chars=rng.randrange(1, 400), stop=rng.choice(([], ["e "], ["the", "\n"])), echo=rng.random() < 0.3,
        include_stop=rng.random() < 0.5, min_chars=rng.choice((0, 1)), continuation=rng.choice((0, 3)),
        chunking=pb.Chunking(max_chars=rng.choice((1, 7, 64))),
    )  # fmt: skip


def as_body(message: pb.GenerateRequest) -> dict[str, Any]:
    sampling = message.sampling
    return {
        "prompt": message.prompt, "max_tokens": message.max_chars, "seed": message.seed, "echo": message.echo,
        "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p,
        "stop": list(message.stop) or None, "logit_bias": dict(sampling.bias.of),
        "charstream": {
            "include_stop": message.include_stop, "min_chars": message.min_chars,
            "continuation": message.continuation, "sampling": {"banned": sampling.banned},
            "chunking": {"max_chars": message.chunking.max_chars},
        },
    }  # fmt: skip


def streamed_text(web: httpx.Client, body: dict[str, Any]) -> str:
    text, ended = "", False
    with web.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line:
                text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
    assert ended
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.correctness.doors", description=__doc__)
    parser.add_argument("--requests", type=int, default=500, help="random requests (%(default)s)")
    parser.add_argument("--bundle", type=Path, help="a bundle to serve (an untrained LSTM 2x256)")
    settings = parser.parse_args()
    with (
        given_or_untrained(settings.bundle, hidden=256) as bundle,
        serving(bundle, "--threads", "1", "--http-port", "0") as server,
    ):
        different = differences(server.address, server.wait_for(WEB), settings.requests)
    print(f"{settings.requests} requests, {len(different)} with texts that differ between the doors")
    for body in different[:5]:
        print(body)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
