"""Runs a bundle's step.onnx: one step of rows whose states the caller has."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bundle.graph_contract import step_inputs, step_outputs
from bundle.manifest import Manifest
from server.runtime.host_runner import Graph

__all__ = ["StepOutput", "StepRunner"]


@dataclass(frozen=True)
class StepOutput:
    """The result of one step.

    Attributes:
        logits: [B, V].
        state: one array [B, H] for each of the model's state names.
    """

    logits: NDArray[np.float32]
    state: Sequence[NDArray[np.float32]]

    def part(self, begin: int, end: int) -> "StepOutput":
        """Return the rows from `begin` to `end`."""
        return StepOutput(self.logits[begin:end], [array[begin:end] for array in self.state])


class StepRunner:
    """The step graph of one model, in float32 on the CPU, whatever serves its texts.

    It is made ready by its first step, which most servers never see. All steps must be run by one thread: see
    session_options in server/runtime/host_runner.py.

    Args:
        data: the bytes of step.onnx.
    """

    def __init__(self, data: bytes, manifest: Manifest) -> None:
        self._data, self._shape, self._vocab = data, manifest.model, len(manifest.symbols)
        self._graph: Graph | None = None

    def run(self, token: NDArray[np.int64], state: Sequence[NDArray[np.float32]]) -> StepOutput:
        """Run a step: token [B], below V, and state [B, H] of each name, all contiguous. Raises CannotRun."""
        if self._graph is None:
            specs = step_inputs(self._shape), step_outputs(self._shape, self._vocab)
            self._graph, self._data = Graph(self._data, *specs, threads=1), b""
        logits = np.empty((len(token), self._vocab), np.float32)
        after = [np.empty_like(array) for array in state]
        self._graph.run((token, *state), (logits, *after))
        return StepOutput(logits, after)
