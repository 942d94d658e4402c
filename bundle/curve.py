"""training.json: the losses of the training run that a bundle comes from. A bundle may have none."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["CURVE", "MAX_CURVE_BYTES", "MAX_POINTS", "CurveError", "TrainingCurve", "parse_curve"]

CURVE = "training.json"
MAX_POINTS = 400
MAX_CURVE_BYTES = 256 << 10

Point = tuple[int, float]


class CurveError(ValueError):
    """The bytes are no training curve; the message is one line."""


class TrainingCurve(BaseModel):
    """Losses in nats per symbol, each as (optimiser steps done, loss), by ascending steps.

    Attributes:
        training: means over some steps of training.
        validation: of the held-out text.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    training: tuple[Point, ...] = Field((), max_length=MAX_POINTS)
    validation: tuple[Point, ...] = Field((), max_length=MAX_POINTS)


def parse_curve(data: bytes) -> TrainingCurve:
    """Return the curve. Raises CurveError."""
    try:
        return TrainingCurve.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or CURVE
        raise CurveError(f"{CURVE}: {place}: {first['msg']}") from None
