"""Compare the texts of the same requests through every door: our gRPC, Triton's stream and answer, SSE and plain HTTP.

    python -m benchmarks.doors.same_texts [--bundle FOLDER]

Half of the texts are cut at a random place and gone on with through the next door, by their token or by what was
received. Exit code 0: no text differs.
"""

import asyncio
import base64
import json
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
from google.protobuf.json_format import MessageToDict
from pydantic import Field

from benchmarks.correctness.determinism import random_request
from benchmarks.support.machine import describe_machine
from benchmarks.support.servers import given_or_untrained, serving
from bundle.manifest import Manifest
from bundle.read import read_manifest
from charstream.settings import Settings, parse
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from protos import inference_pb2 as oip
from protos import inference_pb2_grpc as oip_grpc

SECONDS = 600.0
# The names that Triton's door has for fields inside of others.
NESTED = {"sampling", "chunking"}


class SameTextsSettings(Settings):
    """Compare the texts of every door."""

    bundle: Path | None = Field(None, description="the bundle to serve (default: an untrained LSTM 2x512)")
    requests: int = Field(500, ge=1, description="requests, each made through every door")


def full_request(seed: int, symbols: str) -> pb.GenerateRequest:
    """Return a request with any of the fields that decide a text."""
    request, rng = random_request(seed, symbols), random.Random(-1 - seed)
    if rng.random() < 0.3:
        request.sampling.banned = "".join(rng.sample(symbols, 5))
    if rng.random() < 0.3:
        request.sampling.bias.of[rng.choice(symbols)] = rng.uniform(-5, 5)
    if rng.random() < 0.2:
        request.sampling.allowed = "".join(rng.sample(symbols, 40))
        request.sampling.ClearField("banned")
    if rng.random() < 0.3:
        request.continuation = rng.randrange(5)
    request.include_stop, request.echo = rng.random() < 0.3, rng.random() < 0.2
    request.min_chars = rng.randrange(request.max_chars)
    request.return_token = True
    return request


Answer = tuple[str, bytes]  # a text, and its resume token
Door = Callable[[pb.GenerateRequest], Awaitable[Answer]]


def own_door(channel: grpc.aio.Channel) -> Door:
    stub = pb_grpc.TextGenerationStub(channel)

    async def ask(request: pb.GenerateRequest) -> Answer:
        messages = [message async for message in stub.Generate(request)]
        return "".join(message.text for message in messages), messages[-1].finish.resume_token

    return ask


def _tensors(request: pb.GenerateRequest, model: str) -> oip.ModelInferRequest:
    """Return the request as Triton's clients write it: text and bytes as tensors, the rest as parameters."""
    translated = oip.ModelInferRequest(model_name=model)

    def add(name: str, values: Sequence[bytes]) -> None:
        given = translated.inputs.add(name=name, datatype="BYTES", shape=[len(values)])
        given.contents.bytes_contents.extend(values)

    add("text_input", [request.prompt.encode()])
    if request.stop:
        add("stop", [stop.encode() for stop in request.stop])
    fields = [*request.ListFields(), *request.sampling.ListFields()]
    if request.chunking.max_chars:
        fields.append((request.chunking.DESCRIPTOR.fields_by_name["max_chars"], request.chunking.max_chars))
    for field, value in fields:
        name = "max_chunk_chars" if field.containing_type.name == "Chunking" else field.name
        if name in {"prompt", "stop", *NESTED}:
            continue
        if name == "bias":
            add(name, [json.dumps(dict(value.of)).encode()])
        elif isinstance(value, str | bytes):
            add(name, [value.encode() if isinstance(value, str) else value])
        else:
            choice = {bool: "bool_param", int: "uint64_param", float: "double_param"}[type(value)]
            translated.parameters[name].CopyFrom(oip.InferParameter(**{choice: value}))
    return translated


def _read(responses: Sequence[oip.ModelInferResponse]) -> Answer:
    found: dict[str, list[bytes]] = {"text_output": [], "resume_token": [b""]}
    for output in (output for response in responses for output in response.outputs):
        if output.name in found:
            found[output.name].extend(output.contents.bytes_contents)
    return b"".join(found["text_output"]).decode(), found["resume_token"][-1]


def triton_infer(channel: grpc.aio.Channel, model: str) -> Door:
    stub = oip_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]

    async def ask(request: pb.GenerateRequest) -> Answer:
        return _read([await stub.ModelInfer(_tensors(request, model))])

    return ask


def triton_stream(channel: grpc.aio.Channel, model: str) -> Door:
    stub = oip_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]

    async def ask(request: pb.GenerateRequest) -> Answer:
        responses = [response async for response in stub.ModelStreamInfer(iter([_tensors(request, model)]))]
        for response in responses:
            if response.error_message:
                raise RuntimeError(response.error_message)
        return _read([response.infer_response for response in responses])

    return ask


def _body(request: pb.GenerateRequest) -> dict[str, Any]:
    rest = pb.GenerateRequest()
    rest.CopyFrom(request)
    for name in ("prompt", "seed", "max_chars", "stop", "echo"):
        rest.ClearField(name)
    own = MessageToDict(rest, preserving_proto_field_name=True)
    top = {"prompt": request.prompt, "max_tokens": request.max_chars, "stop": list(request.stop), "echo": request.echo}
    return {**top, "seed": request.seed, "charstream": own}


def _finish_token(choice: dict[str, Any]) -> bytes:
    return base64.b64decode(choice["charstream"]["finish"]["resume_token"])


def plain_http(client: httpx.AsyncClient) -> Door:
    async def ask(request: pb.GenerateRequest) -> Answer:
        answer = await client.post("/v1/completions", json=_body(request))
        answer.raise_for_status()
        (choice,) = answer.json()["choices"]
        return choice["text"], _finish_token(choice)

    return ask


def sse(client: httpx.AsyncClient) -> Door:
    async def ask(request: pb.GenerateRequest) -> Answer:
        text, choice = "", dict[str, Any]()
        async with client.stream("POST", "/v1/completions", json={**_body(request), "stream": True}) as answer:
            async for line in answer.aiter_lines():
                data = line.removeprefix("data: ")
                if data and data != "[DONE]":
                    (choice,) = json.loads(data)["choices"]
                    text += choice["text"]
        return text, _finish_token(choice)

    return ask


async def cut(request: pb.GenerateRequest, doors: Sequence[Door], number: int) -> str:
    """Return the text in two parts, from two doors: by the token of the first, or with what was received from it."""
    rng, first, second = random.Random(number), doors[number % len(doors)], doors[(number + 1) % len(doors)]
    begin, whole = pb.GenerateRequest(), request.max_chars
    begin.CopyFrom(request)
    begin.max_chars = rng.randint(1, whole)
    begin.min_chars = min(begin.min_chars, begin.max_chars)
    text, token = await first(begin)
    generated = len(text) - len(request.prompt) * request.echo
    if generated < begin.max_chars or begin.max_chars == whole or request.stop:
        # It has ended, or what a stop string held back is cut off: replay all of it.
        text, token = text[: rng.randint(0, len(text))], b""
    rest = pb.GenerateRequest()
    rest.CopyFrom(request)
    if token:
        rest.ClearField("prompt")
        rest.echo = False
        rest.resume_token, rest.max_chars = token, whole - begin.max_chars
        rest.min_chars = max(0, request.min_chars - begin.max_chars)
    else:
        rest.received = text
    return text + (await second(rest))[0]


async def compare(address: str, web: str, manifest: Manifest, requests: Sequence[pb.GenerateRequest]) -> int:
    """Print how many texts differ through each door; return the sum."""
    async with (
        grpc.aio.insecure_channel(address) as channel,
        httpx.AsyncClient(base_url=f"http://{web}", timeout=SECONDS) as client,
    ):
        own, name = own_door(channel), manifest.name
        others = {
            "ModelStreamInfer": triton_stream(channel, name),
            "ModelInfer": triton_infer(channel, name),
            "SSE": sse(client),
            "plain HTTP": plain_http(client),
        }
        expected = [(await own(request))[0] for request in requests]
        print(f"{len(requests)} requests, {sum(map(len, expected)):,} characters", flush=True)
        differences = 0
        for door, ask in others.items():
            found = [(await ask(request))[0] for request in requests]
            wrong = sum(one != other for one, other in zip(found, expected, strict=True))
            print(f"{door}: {wrong} differ", flush=True)
            differences += wrong
        pieces = [await cut(request, [own, *others.values()], number) for number, request in enumerate(requests[::2])]
        wrong = sum(one != other for one, other in zip(pieces, expected[::2], strict=True))
        print(f"cut and gone on with through another door: {wrong} of {len(pieces)} differ", flush=True)
    return differences + wrong


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(SameTextsSettings, argv, command="python -m benchmarks.doors.same_texts")
    with given_or_untrained(settings.bundle) as bundle:
        manifest, _ = read_manifest(bundle)
        requests = [full_request(seed, manifest.symbols) for seed in range(settings.requests)]
        print(describe_machine(), flush=True)
        with serving(bundle, "--no-log-calls", "--http-port", "0") as server:
            web = server.wait_for(r"HTTP on ([\w.:[\]-]+)")
            differences = asyncio.run(compare(server.address, web, manifest, requests))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
