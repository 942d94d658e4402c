"""The losses that onnxruntime computes, by the protocols of models/evaluation/losses.py."""

import numpy as np
from numpy.typing import NDArray

from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import ON_DEVICE, Manifest, Precision
from bundle.read import Bundle, full_file
from export.verification.device_loop import DeviceLoop
from export.verification.onnx_session import OnnxSession
from models.evaluation.losses import LossEvaluator, States, TorchEvaluator
from models.runs.bundle_model import model_of_bundle

__all__ = ["OnnxEvaluator", "open_evaluator"]

# At most this many log-probabilities in one run.
_MAX_LOGPROBS = 1 << 22


class OnnxEvaluator:
    """Finds losses with a full graph of a bundle: every symbol is forced. See models/evaluation/losses.py.

    Args:
        fixed: the graph's number of steps, if it has no loop. A shorter run is padded, and the state after it is NaN,
            as no text may go on from it.
    """

    def __init__(self, full: OnnxSession | DeviceLoop, manifest: Manifest, fixed: int | None = None) -> None:
        self._full, self._manifest, self._vocab, self._fixed = full, manifest, len(manifest.symbols), fixed

    def initial_state(self, streams: int) -> States:
        shape = self._manifest.model
        return tuple(np.zeros((streams, shape.hidden), np.float32) for _ in shape.state_names)

    def read(
        self, inputs: NDArray[np.integer], targets: NDArray[np.integer], state: States
    ) -> tuple[NDArray[np.float32], States]:
        steps, losses = self._fixed or max(1, _MAX_LOGPROBS // (inputs.shape[1] * self._vocab)), []
        for first in range(0, len(inputs), steps):
            forced = targets[first : first + steps].astype(np.int64)
            padded = np.pad(forced, ((0, steps - len(forced) if self._fixed else 0), (0, 0)))
            outputs = self._full.run(self._inputs(inputs[first].astype(np.int64), padded, state))
            state = tuple(outputs[f"{name}_next"] for name in self._manifest.model.state_names)
            losses.append(-np.take_along_axis(outputs["logprobs"][: len(forced)], forced[..., None], 2)[..., 0])
        if len(padded) > len(forced):
            state = tuple(np.full_like(array, np.nan) for array in state)
        return np.concatenate(losses), state

    def _inputs(
        self, token: NDArray[np.int64], forced: NDArray[np.int64], state: States
    ) -> dict[str, NDArray[np.generic]]:
        """Return the inputs of a run, without limits: token [S], forced [K, S]."""
        streams = len(token)
        return {
            "token": token,
            "forced": forced,
            "uniform": np.zeros(forced.shape, np.float32),
            "temperature": np.ones(streams, np.float32),
            "bias": np.zeros((streams, self._vocab), np.float32),
            "top_k": np.full(streams, self._vocab),
            "top_p": np.ones(streams, np.float32),
            "min_p": np.zeros(streams, np.float32),
            **dict(zip(self._manifest.model.state_names, state, strict=True)),
        }


def open_evaluator(bundle: Bundle, precision: Precision) -> LossEvaluator:
    """Return an evaluator on the full graph of a precision; for fp32 where there is none, on step.onnx by torch.

    For a device it is the longest graph: `carried_mean` goes on after whole runs.
    """
    manifest, steps = bundle.manifest, max(DEVICE_STEPS) if precision in ON_DEVICE else None
    if precision not in manifest.precisions:
        return TorchEvaluator(model_of_bundle(manifest, bundle.files, bundle.folder).model)
    session = OnnxSession(bundle.files[full_file(precision, steps)])
    return OnnxEvaluator(DeviceLoop(session, manifest) if steps else session, manifest, steps)
