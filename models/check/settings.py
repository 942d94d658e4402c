"""The settings of `charstream check`."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from charstream.settings import Positional
from models.run_folder import CHECKS
from models.training.settings import TrainSettings

__all__ = ["CheckSettings", "Name"]

Name = Literal["loss", "activations", "gradients", "overfit", "rate", "updates", "gap", "reach"]


class CheckSettings(TrainSettings):
    """Checks what one looks at before, while and after a network is trained, in about two minutes.

    Without RUN the flags of `charstream train`, which it takes too, say what would be trained, and a short trial
    stands for it. With RUN its settings, weights and figures are looked at. Each check says what it found, and what
    to do; plots and check.json go into a folder. It runs on the CPU without weight averaging, whatever the flags say.
    Exit code 1 if one failed.
    """

    listed: ClassVar = frozenset({"run", "only", "out", "steps", "json_", "data", "preset"})

    run: Annotated[Path | None, Positional()] = Field(None, description="a run's folder")
    only: tuple[Name, ...] = Field((), description="make this check only; may be given several times")
    out: Path | None = Field(None, description="folder of plots and check.json (default: RUN/check, or ./check)")  # type: ignore[assignment]
    steps: int | None = Field(None, ge=1, description="of the trial, at most")
    json_: bool = Field(False, description="print check.json on stdout")

    @property
    def folder(self) -> Path:
        return self.out or (self.run or Path()) / CHECKS
