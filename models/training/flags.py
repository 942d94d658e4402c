"""Settings of training as the command line that gives them."""

import shlex
from typing import Any

from models.training.settings import TrainSettings

__all__ = ["overrides", "train_command"]

# They say where a run goes and what is printed, not what is trained.
_OF_THE_COMMAND = {"out", "preset", "resume", "overwrite", "json_"}


def overrides(settings: TrainSettings) -> dict[str, Any]:
    """The settings that are other than their preset has them, by name; of a subclass, those of training."""
    usual = TrainSettings(preset=settings.preset, out=settings.out)
    names = [name for name in TrainSettings.model_fields if name not in _OF_THE_COMMAND]
    return {name: getattr(settings, name) for name in names if getattr(settings, name) != getattr(usual, name)}


def train_command(settings: TrainSettings) -> str:
    """What one types to train with these settings."""
    words = ["charstream", "train"]
    if settings.preset != "default":
        words += ["--preset", settings.preset]
    for name, value in overrides(settings).items():
        words += _flag(name, value)
    return shlex.join([*words, "--out", str(settings.out)])


def _flag(name: str, value: Any) -> list[str]:
    flag = name.rstrip("_").replace("_", "-")
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{flag}"]
    return [f"--{flag}", str(value)]
