"""BentoML, as its documentation streams: an API that is an async generator. It batches only calls that return at once.

The bundle is in PEER_BUNDLE, since `bentoml serve` imports this module in processes of its own.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import bentoml
import numpy as np

from benchmarks.peers.servers.char_model import CharModel


@bentoml.service(workers=1, traffic={"timeout": 600, "max_concurrency": 1024})
class Text:
    def __init__(self) -> None:
        self.model = CharModel(Path(os.environ["PEER_BUNDLE"]))

    @bentoml.api
    async def generate(self, chars: int, chunk: int, temperature: float) -> AsyncGenerator[str, None]:
        row, warmth = self.model.begin(1), np.array([temperature], np.float32)
        for sent in range(0, chars, chunk):
            (text,) = self.model.texts(self.model.run(row, min(chunk, chars - sent), warmth))
            yield text
            await asyncio.sleep(0)  # the others' turn
