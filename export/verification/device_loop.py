"""A graph for a device, run with what one that loops is given: its rows stay where they are."""

from collections.abc import Mapping

import numpy as np

from bundle.manifest import Manifest
from export.verification.onnx_session import Arrays, Runtime

__all__ = ["InPlace"]


class InPlace:
    """Runs a graph of a fixed number of steps; what it is given has as many."""

    def __init__(self, runtime: Runtime, manifest: Manifest) -> None:
        self._runtime = runtime
        # Nobody comes from there: it would show.
        state = np.full((1, manifest.model.hidden), np.nan, np.float32)
        self._staged: Arrays = {f"staged_{name}": state for name in manifest.model.state_names}
        self._staged["staged_token"] = np.zeros(1, np.int64)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Outputs by name. Raises RuntimeFailure."""
        return self._runtime.run({**inputs, **self._staged, "source": np.arange(len(inputs["token"]))})
