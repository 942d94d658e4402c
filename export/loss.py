"""The loss of what the runtime computes, on the protocol of models/evaluate.py."""

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bundle.manifest import Manifest
from export.runtime import Runtime
from models.evaluate import UNCOUNTED, WARM_UP, WINDOW, parts

__all__ = ["carried_nats"]


def carried_nats(full: Runtime, manifest: Manifest, ids: NDArray[np.integer], what: str) -> float:
    """Mean nats per character of a held-out text with a carried state: every character is forced.

    Args:
        full: the graph full.*.onnx.
        ids: the text's characters, [N].
        what: stands before the progress bar.
    """
    start = int(manifest.vocabulary.encode(manifest.start_text)[0])
    inputs, targets = (tensor.numpy() for tensor in parts(ids, start))
    streams, vocab = inputs.shape[1], len(manifest.symbols)
    following = np.concatenate([inputs[1:], targets[-1:].clip(min=0)])
    counted = np.concatenate([np.full((WARM_UP, streams), UNCOUNTED), targets]) != UNCOUNTED
    plain = {
        "temperature": np.ones(streams, np.float32),
        "bias": np.zeros((streams, vocab), np.float32),
        "top_k": np.full(streams, vocab),
        "top_p": np.ones(streams, np.float32),
        "min_p": np.zeros(streams, np.float32),
    }
    state = {name: np.zeros((streams, manifest.model.hidden), np.float32) for name in manifest.model.state_names}
    total = 0.0
    for first in tqdm(range(0, len(inputs), WINDOW), desc=what, leave=False, disable=None):
        if first == WARM_UP:
            # The first stream is the text's beginning: nothing came before it.
            for array in state.values():
                array[0] = 0
        forced = following[first : first + WINDOW]
        numbers = {"token": inputs[first], "forced": forced, "uniform": np.zeros(forced.shape, np.float32)}
        outputs = full.run({**numbers, **plain, **state})
        state = {name: outputs[f"{name}_next"] for name in state}
        logprobs = np.take_along_axis(outputs["logprobs"], forced[..., None], 2)[..., 0]
        total -= float(logprobs[counted[first : first + WINDOW]].sum(dtype=np.float64))
    return total / int(counted.sum())
