"""Where figures come from: versions, processor, instruction sets."""

import os
import platform
from typing import Any

from charstream.versions import installed_versions, instruction_sets, processor
from client.results import ModelInfo

__all__ = ["describe_origin"]

MODEL = ("name", "version", "digest", "cell", "layers", "hidden", "precision", "provider", "numerics")


def describe_origin(served: ModelInfo | None = None) -> dict[str, Any]:
    """Return what a result has to say of the machine that made the load, the programs, and the model."""
    return {
        "versions": {
            "Python": platform.python_version(),
            **installed_versions("charstream", "locust", "grpcio", "hdrhistogram"),
        },
        "processor": processor(),
        "cores": os.cpu_count(),
        "instructions": instruction_sets(),
        "model": served and {name: getattr(served, name) for name in MODEL},
    }
