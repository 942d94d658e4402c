"""The settings of `charstream search` and `charstream compare`."""

import re
from importlib.util import find_spec
from typing import Literal

from pydantic import Field, field_validator

from models.training.settings import TrainSettings

__all__ = ["CompareSettings", "SearchSettings"]


class SearchSettings(TrainSettings):
    """Trains with many settings and tells which give the lowest validation loss.

    All flags of charstream train hold for every trial, but for what --space varies; --minutes, --steps and
    --characters are each trial's. A trial that validates worse than half of those before it did at the same point is
    given up. The folder's search.db knows all: --resume goes on, and processes that go on at once share the trials.
    """

    space: tuple[str, ...] = Field(
        ("learning_rate=3e-4..3e-2", "weight_decay=1e-3..1", "dropout=0..0.6"),
        description="where to look, several times: NAME=LOW..HIGH, spread over orders of magnitude if HIGH is at least "
        "10 x LOW, or NAME=A,B,C",
    )
    storage: str = Field(
        "",
        description="database that keeps the trials in the place of OUT/search.db, for processes on several machines: "
        "postgresql://USER@HOST/DATABASE (a password by PGPASSWORD or ~/.pgpass: this is written into OUT). Each "
        "process begins with the same flags and an --out of its own, and ends when all trials have ended",
    )
    study: str = Field("search", min_length=1, max_length=512, description="the search's name in --storage")
    stale_seconds: int = Field(
        120,
        ge=4,
        description="with --storage, seconds without a sign of life after which a process is taken for dead, and its "
        "trial made again",
    )
    trials: int = Field(30, ge=1, description="settings to try, by all processes together; each may add one")
    sampler: Literal["tpe", "random"] = Field(
        "tpe",
        description="tpe: where a model of the trials so far expects most; random: anywhere, coarsely, in the first "
        "half, then finely, in a quarter of each interval, around the best fifth",
    )
    prune: bool = Field(True, description="give bad trials up early")

    @field_validator("storage")
    @classmethod
    def _storage_is_shared(cls, url: str) -> str:
        if url and not re.match(r"postgresql://[^/]*/[^/]", url):
            raise ValueError("postgresql://USER@HOST/DATABASE is expected")
        if url and find_spec("psycopg") is None:
            raise ValueError("the package for PostgreSQL is not installed: pip install 'charstream[postgresql]'")
        return url


class CompareSettings(TrainSettings):
    """Trains variants of a model and puts what they come to side by side, in a table and a picture.

    All flags of charstream train hold for every variant, but for what --vary names: --vary layers=1,2,3,4 --vary
    cell=rnn,gru,lstm trains twelve. A comparison that was stopped goes on by --resume.
    """

    vary: tuple[str, ...] = Field((), description="NAME=A,B,C; several times: every combination (required)")
    equal: Literal["parameters", "time", "steps"] = Field(
        "parameters",
        description="parameters: --hidden is chosen so that every variant has as many as the flags alone give; time, "
        "steps: --hidden stays, and every variant gets the same --minutes or --steps",
    )
