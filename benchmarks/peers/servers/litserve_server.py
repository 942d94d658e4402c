"""LitServe, in the two ways that its documentation has for streams.

`batched`: `predict` is a generator over a batch of requests, which all begin and end together.
`continuous`: its ContinuousBatchingLoop calls `step` again and again; requests join and leave between two steps.
"""

import argparse
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litserve as ls
import numpy as np
from litserve.loops.continuous_batching_loop import ContinuousBatchingLoop, Output
from litserve.utils import LitAPIStatus

from benchmarks.peers.servers.char_model import CharModel, Rows

Request = dict[str, Any]  # chars, chunk, temperature


class BatchedAPI(ls.LitAPI):  # type: ignore[misc]
    """A batch of requests is one generator; a request that comes later waits until the batch has ended."""

    def __init__(self, bundle: Path, graph: str, **settings: Any) -> None:
        super().__init__(stream=True, **settings)
        self.bundle, self.graph = bundle, graph

    def setup(self, device: str) -> None:
        self.model = CharModel(self.bundle, self.graph)

    def batch(self, inputs: list[Request]) -> list[Request]:
        return inputs

    def predict(self, requests: list[Request]) -> Iterator[list[str]]:
        rows = self.model.begin(len(requests))
        temperature = np.array([request["temperature"] for request in requests], np.float32)
        chars, chunk = max(request["chars"] for request in requests), requests[0]["chunk"]
        for sent in range(0, chars, chunk):
            texts = self.model.texts(self.model.run(rows, chunk, temperature))
            yield [text[: request["chars"] - sent] for text, request in zip(texts, requests, strict=True)]

    def encode_response(self, outputs):  # type: ignore[no-untyped-def]  # LitServe gives its type to FastAPI
        yield from outputs


class ContinuousAPI(ls.LitAPI):  # type: ignore[misc]
    """Requests that are active are rows of one batch; each call of `step` is one message for each of them."""

    def __init__(self, bundle: Path, graph: str, **settings: Any) -> None:
        super().__init__(stream=True, loop=ContinuousBatchingLoop(), **settings)
        self.bundle, self.graph = bundle, graph

    def setup(self, device: str) -> None:
        self.model = CharModel(self.bundle, self.graph)
        self.rows: Rows = self.model.begin(0)
        self.active: list[tuple[str, Request]] = []
        self.waiting: deque[tuple[str, Request]] = deque()  # filled by the loop while a step runs in a thread

    def add_request(self, uid: str, request: Request) -> None:
        self.waiting.append((uid, request | {"left": request["chars"]}))

    def has_capacity(self) -> bool:
        return len(self.active) + len(self.waiting) < self.max_batch_size

    def has_active_requests(self) -> bool:
        return bool(self.active or self.waiting)

    def step(self, previous: list[Output] | None) -> list[Output]:
        self._admit()
        temperature = np.array([request["temperature"] for _, request in self.active], np.float32)
        chunk = max(request["chunk"] for _, request in self.active)
        outputs = []
        for (uid, request), text in zip(
            self.active, self.model.texts(self.model.run(self.rows, chunk, temperature)), strict=True
        ):
            outputs.append(Output(uid, text[: request["left"]], LitAPIStatus.OK))
            request["left"] -= len(text)
            if request["left"] <= 0:
                outputs.append(Output(uid, "", LitAPIStatus.FINISH_STREAMING))
        self._end()
        return outputs

    def _admit(self) -> None:
        new = [self.waiting.popleft() for _ in range(len(self.waiting))]
        if new:
            self.rows = self.rows.joined(self.model.begin(len(new)))
            self.active += new

    def _end(self) -> None:
        keep = [request["left"] > 0 for _, request in self.active]
        if not all(keep):
            self.rows = self.rows.kept(keep)
            self.active = [item for item, stays in zip(self.active, keep, strict=True) if stays]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--loop", choices=("batched", "continuous"), required=True)
    parser.add_argument("--graph", default="step")
    arguments = parser.parse_args()
    if arguments.loop == "batched":
        api = BatchedAPI(arguments.bundle, arguments.graph, max_batch_size=64, batch_timeout=0.01)
    else:
        api = ContinuousAPI(arguments.bundle, arguments.graph, max_batch_size=256)
    # fast_queue: its documentation's setting for many small messages (ZeroMQ instead of a manager's queues).
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=False, fast_queue=True)
    server.run(host="127.0.0.1", port=arguments.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
