"""A bare grpc.aio server that runs a bundle's decode graph in its own process, for one text at a time.

    python -m benchmarks.support.bare_server BUNDLE PRECISION

What it does for a text is the least that anyone can do: runs of a few steps, and a message after each. It knows a
request's seed, temperature and max_chars, and nothing else: no prompt, no limits, no other texts beside.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np

from bundle.manifest import Precision
from bundle.philox import uniforms
from bundle.read import decode_file, full_file, read_bundle
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.engine.messages import RowState
from server.engine.state_store import idle_input
from server.runtime.host_runner import Runner
from server.runtime.host_states import HostStates

__all__ = ["FIRST_STEPS", "BareText"]

FIRST_STEPS, STEPS = 4, 16


class BareText:
    """Generates texts from a decode graph, one at a time."""

    def __init__(self, folder: Path, precision: Precision) -> None:
        bundle = read_bundle(folder)
        files = (bundle.files[decode_file(precision)], bundle.files[full_file(precision)])
        self._manifest, self._vocab = bundle.manifest, len(bundle.manifest.symbols)
        runner = Runner(*files, bundle.manifest.model, self._vocab, threads=1)
        self._states = HostStates(runner, self._manifest, 1, 1, np.empty(STEPS * self._vocab, np.float32))
        zeros = tuple(np.zeros(self._manifest.model.hidden, np.float32) for _ in self._manifest.model.state_names)
        self._start = RowState(int(self._manifest.vocabulary.symbols_to_tokens(self._manifest.start_text)[0]), zeros, 0)
        for _ in self.generate(pb.GenerateRequest(seed=1, max_chars=100, sampling=pb.Sampling(temperature=1))):
            pass

    def generate(self, request: pb.GenerateRequest) -> Iterator[str]:
        """Yield the characters of each run."""
        self._states.put(0, self._start)
        position, steps = 0, FIRST_STEPS
        while position < request.max_chars:
            steps = min(steps, request.max_chars - position)
            inputs = idle_input(1, 1, steps, self._vocab)
            inputs.uniform[:] = uniforms(np.array([request.seed], np.uint64), np.array([position + 1]), steps)
            inputs.temperature[:] = request.sampling.temperature
            yield self._states.run(inputs, full=False).symbols
            position, steps = position + steps, STEPS


class BareGeneration(pb_grpc.TextGenerationServicer):
    def __init__(self, text: BareText) -> None:
        self._text = text

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]
    ) -> None:
        for part in self._text.generate(request):
            await context.write(pb.GenerateResponse(text=part))


async def main(folder: Path, precision: Precision) -> None:
    server = grpc.aio.server()
    pb_grpc.add_TextGenerationServicer_to_server(BareGeneration(BareText(folder, precision)), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", file=sys.stderr, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))  # type: ignore[arg-type]
