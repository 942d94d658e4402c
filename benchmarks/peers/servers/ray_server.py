"""Ray Serve, as its guide to dynamic request batching has it for streams: `@serve.batch` over an async generator."""

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import StreamingResponse

from benchmarks.peers.servers.char_model import CharModel


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 1})
class Text:
    def __init__(self, bundle: str) -> None:
        self.model = CharModel(Path(bundle))

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.01)
    async def generate(self, requests: list[dict[str, Any]]) -> AsyncIterator[list[Any]]:
        rows = self.model.begin(len(requests))
        temperature = np.array([request["temperature"] for request in requests], np.float32)
        chars, chunk = max(request["chars"] for request in requests), requests[0]["chunk"]
        for sent in range(0, chars, chunk):
            texts = self.model.texts(self.model.run(rows, chunk, temperature))
            left = [request["chars"] - sent for request in requests]
            yield [text[:most] if most > 0 else StopIteration for text, most in zip(texts, left, strict=True)]
            await asyncio.sleep(0)  # lets the batch's messages leave, as the guide's example does

    async def __call__(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self.generate(await request.json()), media_type="text/plain")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
    serve.run(Text.bind(arguments.bundle), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
