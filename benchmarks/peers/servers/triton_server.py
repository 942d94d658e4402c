"""Triton through nvidia-pytriton, which ships its binary, in the two ways that its documentation allows.

`stateless`: a request is some steps; the state comes with it and goes back with the answer. Triton batches requests.
`decoupled`: a request is a whole text, and each response a message of it.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.servers.char_model import CharModel, Rows

Array = NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True, help="of gRPC")
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--mode", choices=("stateless", "decoupled"), required=True)
    arguments = parser.parse_args()
    model = CharModel(arguments.bundle)
    layers = np.stack(model.begin(1).state, 1)  # [1, S, H]: all of a row's state in one tensor

    @batch
    def step(numbers: Array, temperature: Array, state: Array) -> dict[str, Array]:
        rows = Rows(numbers[:, 0], [np.ascontiguousarray(state[:, each]) for each in range(state.shape[1])])
        tokens = model.run(rows, int(numbers[0, 1]), temperature[:, 0])
        return {"tokens": tokens.T, "state_next": np.stack(rows.state, 1)}

    @batch
    def generate(numbers: Array, temperature: Array) -> Iterator[dict[str, Array]]:
        rows, chunk = model.begin(len(numbers)), int(numbers[0, 1])
        for _ in range(math.ceil(numbers[:, 0].max() / chunk)):
            yield {"tokens": model.run(rows, chunk, temperature[:, 0]).T}

    # The last token, or the characters of the text; and the characters of a message. A tensor costs more than a number.
    numbers = Tensor(name="numbers", dtype=np.int64, shape=(2,))
    temperature = Tensor(name="temperature", dtype=np.float32, shape=(1,))
    tokens = Tensor(name="tokens", dtype=np.int64, shape=(-1,))
    stateless = arguments.mode == "stateless"
    config = ModelConfig(
        max_batch_size=64,
        batcher=DynamicBatcher(max_queue_delay_microseconds=500 if stateless else 10_000),
        decoupled=not stateless,
    )
    triton_config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=arguments.port,
        http_address="127.0.0.1",
        http_port=arguments.http_port,
        allow_metrics=False,
    )
    with Triton(config=triton_config) as triton:
        if stateless:
            before, after = (
                Tensor(name=name, dtype=np.float32, shape=layers.shape[1:]) for name in ("state", "state_next")
            )
            triton.bind("text", step, [numbers, temperature, before], [tokens, after], config=config)
        else:
            triton.bind("text", generate, [numbers, temperature], [tokens], config=config)
        triton.serve()


if __name__ == "__main__":
    main()
