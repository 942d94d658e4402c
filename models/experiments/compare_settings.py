"""What a comparison is told."""

from typing import Literal

from pydantic import Field

from models.training.settings import TrainSettings

__all__ = ["CompareSettings"]


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
