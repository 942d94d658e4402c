"""A graph for a device that is run like one that loops: its rows stay in their places."""

from collections.abc import Mapping

import numpy as np

from bundle.manifest import Manifest
from export.verification.onnx_session import Arrays, OnnxSession

__all__ = ["DeviceLoop"]


class DeviceLoop:
    """Runs a graph of a fixed number of steps, on inputs of the same number."""

    def __init__(self, session: OnnxSession, manifest: Manifest) -> None:
        self._session = session
        # No row takes its start from here: NaN would show it.
        state = np.full((1, manifest.model.hidden), np.nan, np.float32)
        self._staged: Arrays = {f"staged_{name}": state for name in manifest.model.state_names}
        self._staged["staged_token"] = np.zeros(1, np.int64)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Return the outputs by name. Raises OnnxSessionError."""
        return self._session.run({**inputs, **self._staged, "source": np.arange(len(inputs["token"]))})
