"""The names of models as the Open Inference Protocol has them: NAME for the text, NAME.step for single steps."""

from dataclasses import dataclass

from server.catalog.versions import Versions

__all__ = ["STEP", "Target", "find_target"]

STEP = ".step"


@dataclass(frozen=True)
class Target:
    """A model that a request means.

    Attributes:
        name: of the bundle, with @VERSION if the request has one.
        is_step: whether it is the model of single steps.
    """

    name: str
    is_step: bool


def find_target(name: str, version: str, versions: Versions) -> Target:
    """Return the model that a request means. A bundle's own name counts, even if it ends with ".step"."""
    is_step = name.endswith(STEP) and not versions.of(name)
    bundle = name.removesuffix(STEP) if is_step else name
    return Target(f"{bundle}@{version}" if version else bundle, is_step)
