"""The Python client of charstream: streams generated text over gRPC, blocking or with asyncio.

    from charstream.client import Client

    with Client(["10.0.0.5:50051", "10.0.0.6:50051"]) as client:
        stream = client.stream("ROMEO:", max_chars=400, seed=7)
        for text in stream:
            print(text, end="", flush=True)
    print(stream.finish)

A text whose server is lost goes on at the other address, and each of its characters comes once. `AsyncClient` is the
same with `async with` and `async for`.
"""

import sys

from .async_client import AsyncClient
from .async_streams import AsyncContinuations, AsyncScoreStream, AsyncTextStream
from .channels import DEFAULT_ADDRESS
from .errors import (
    CharstreamError,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    NotAllowed,
    Overloaded,
    ServerError,
    Unavailable,
    WrongReplica,
)
from .hedging.counters import Counts
from .options import GenerateOptions
from .results import Finish, ModelInfo, Place, Progress, Repeat, Replica, ScoredPart, ScoreSummary, Started, Training
from .score_task import ScoreOptions
from .sync_client import Client
from .sync_streams import Continuations, ScoreStream, TextStream

__all__ = [
    "DEFAULT_ADDRESS",
    "AsyncClient",
    "AsyncContinuations",
    "AsyncScoreStream",
    "AsyncTextStream",
    "CharstreamError",
    "Client",
    "Continuations",
    "Counts",
    "DeadlineExceeded",
    "Finish",
    "GenerateOptions",
    "InvalidRequest",
    "ModelInfo",
    "ModelNotFound",
    "NotAllowed",
    "Overloaded",
    "Progress",
    "Repeat",
    "Replica",
    "ScoreOptions",
    "ScoreStream",
    "ScoreSummary",
    "ScoredPart",
    "ServerError",
    "Started",
    "TextStream",
    "Training",
    "Unavailable",
    "WrongReplica",
]

# Pickles of a Progress name the modules where its classes used to be, so that releases before this one read them too.
progress = values = sys.modules[Progress.__module__]
sys.modules[f"{__name__}.progress"] = sys.modules[f"{__name__}.values"] = progress
Progress.__module__ = Place.__module__ = f"{__name__}.progress"
Replica.__module__ = Started.__module__ = f"{__name__}.values"
