"""ONNX Runtime against torch: does a bundle compute what the model does?

The reference runs in torch, one step at a time. It is fed with the runtime's outcomes, so that every step is compared
from the same history; an outcome that differs is accepted only where the random number lies on the edge between two
characters, closer than two roundings can tell.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from bundle.manifest import Manifest
from bundle.read import STEP, decode_file
from export.graphs import StepGraph
from models.generate import LARGEST_UNIFORM
from models.model import CharLM, ModelConfig, State

__all__ = ["Verification", "reference_of_bundle", "verify"]

# One step of the reference: token [B], state -> logits [B, V], state.
Reference = Callable[[Tensor, State], tuple[Tensor, State]]
Arrays = dict[str, NDArray[np.generic]]

ROWS, STEPS, CHAINED_RUNS = (1, 2, 7, 64), (1, 5, 16), 3
# Of logits and state, float32 after 48 chained steps from a random state. A trained model showed 4e-5 (its logits reach
# 20); a wrong weight or gate shows more than 0.1.
TOLERANCE = 1e-3
EDGE = 1e-5  # of a cumulated probability


@dataclass
class Verification:
    """The largest differences found, and what is wrong: nothing, if `failures` is empty."""

    logits: float = 0.0
    state: float = 0.0
    outcomes: int = 0
    edges: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.failures

    def report(self) -> str:
        lines = [
            f"largest difference of a logit: {self.logits:.2e} (at most {TOLERANCE:g})",
            f"largest difference of a state: {self.state:.2e} (at most {TOLERANCE:g})",
            f"outcomes compared: {self.outcomes:,}; on an edge between two characters: {self.edges}",
            *(f"FAILED: {failure}" for failure in self.failures),
            "verified" if self.passed else "not verified",
        ]
        return "\n".join(lines)


def verify(manifest: Manifest, files: dict[str, bytes], model: CharLM) -> Verification:
    """Compares the bundle's graphs with a torch model: chained steps from a random state, several B and K, rows that
    are forced, sampled, greedy or at rest, and each row alone against the row in the batch."""
    found = Verification()
    torch_step = _reference(model)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        _check_step(found, manifest, files[STEP], torch_step, rng)
        for precision in manifest.precisions:
            session = _session(files[decode_file(precision)])
            for rows in ROWS:
                for steps in STEPS:
                    _check_decode(found, manifest, session, torch_step, rows, steps, rng)
            _check_rows_are_independent(found, manifest, session, rng)
    if found.logits > TOLERANCE or found.state > TOLERANCE:
        found.failures.append("differences exceed the tolerance")
    return found


def reference_of_bundle(manifest: Manifest, files: dict[str, bytes]) -> StepGraph:
    """The torch module of step.onnx with the weights of the file, for bundles whose training run is gone."""
    shape = manifest.model
    config = ModelConfig(vocab=len(manifest.symbols), layers=shape.layers, hidden=shape.hidden, embedding=1)
    step = StepGraph(CharLM(config))
    weights = {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load_from_string(files[STEP]).graph.initializer
    }
    step.load_state_dict({name: weights[name] for name in step.state_dict()})
    return step


def _reference(model: CharLM | StepGraph) -> Reference:
    if isinstance(model, StepGraph):
        return lambda token, state: _split(model(token, *state))
    return lambda token, state: _first(model(token.unsqueeze(0), state))


def _split(outputs: tuple[Tensor, ...]) -> tuple[Tensor, State]:
    return outputs[0], outputs[1:]


def _first(outputs: tuple[Tensor, State]) -> tuple[Tensor, State]:
    return outputs[0][0], outputs[1]


def _session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _random_state(manifest: Manifest, rows: int, rng: np.random.Generator) -> Arrays:
    size = (rows, manifest.model.hidden)
    return {name: rng.uniform(-1, 1, size).astype(np.float32) for name in manifest.model.state_names}


def _tensors(arrays: Arrays) -> State:
    return tuple(torch.from_numpy(array) for array in arrays.values())


def _check_step(
    found: Verification, manifest: Manifest, data: bytes, step: Reference, rng: np.random.Generator
) -> None:
    session = _session(data)
    for rows in ROWS:
        state = _random_state(manifest, rows, rng)
        expected_state = _tensors(state)
        for _ in range(max(STEPS)):
            token = rng.integers(0, len(manifest.symbols), rows)
            logits, *after = session.run(None, {"token": token, **state})
            expected, expected_state = step(torch.from_numpy(token), expected_state)
            state = dict(zip(state, after, strict=True))
            found.logits = max(found.logits, _difference(logits, expected))
        found.state = max([found.state, *map(_difference, state.values(), expected_state)])


def _check_decode(
    found: Verification,
    manifest: Manifest,
    session: onnxruntime.InferenceSession,
    step: Reference,
    rows: int,
    steps: int,
    rng: np.random.Generator,
) -> None:
    state = _random_state(manifest, rows, rng)
    token = rng.integers(0, len(manifest.symbols), rows)
    expected_state, expected_token = _tensors(state), torch.from_numpy(token)
    for _ in range(CHAINED_RUNS):
        inputs = _random_inputs(manifest, rows, steps, rng)
        tokens, token, *after = session.run(None, {"token": token, **inputs, **state})
        state = dict(zip(state, after, strict=True))
        expected_token, expected_state = _replay(found, step, inputs, tokens, expected_token, expected_state)
        if (token != expected_token.numpy()).any():
            found.failures.append(f"the last characters differ at {rows} rows, {steps} steps")
    found.state = max([found.state, *map(_difference, state.values(), expected_state)])


def _random_inputs(manifest: Manifest, rows: int, steps: int, rng: np.random.Generator) -> Arrays:
    forced = rng.integers(0, len(manifest.symbols), (steps, rows))
    return {
        "forced": np.where(rng.random((steps, rows)) < 0.5, forced, -1),
        "uniform": rng.random((steps, rows), np.float32),
        "steps": rng.integers(0, steps + 1, rows),
        "temperature": rng.choice(np.array([0, 0.5, 1, 1.7], np.float32), rows),
    }


def _replay(
    found: Verification, step: Reference, inputs: Arrays, tokens: NDArray[np.int64], token: Tensor, state: State
) -> tuple[Tensor, State]:
    """Follows the runtime's outcomes [K, B] in torch; returns the last characters and the state they lead to."""
    for k, outcomes in enumerate(tokens):
        logits, after = step(token, state)
        active = k < torch.from_numpy(inputs["steps"])
        _check_outcomes(found, logits.double().numpy(), inputs, k, outcomes)
        token = torch.where(active, torch.from_numpy(outcomes), token)
        state = tuple(torch.where(active[:, None], new, old) for new, old in zip(after, state, strict=True))
    return token, state


def _check_outcomes(
    found: Verification, logits: NDArray[np.float64], inputs: Arrays, k: int, outcomes: NDArray[np.int64]
) -> None:
    for row, outcome in enumerate(outcomes.tolist()):
        forced, temperature = int(inputs["forced"][k, row]), float(inputs["temperature"][row])
        found.outcomes += 1
        if k >= inputs["steps"][row]:
            expected, distance = -1, 1.0
        elif forced >= 0:
            expected, distance = forced, 1.0
        elif temperature == 0:
            expected = int(logits[row].argmax())
            distance = float(logits[row].max() - logits[row, outcome])
        else:
            expected, distance = _sampled(logits[row] / temperature, float(inputs["uniform"][k, row]), outcome)
        if outcome == expected:
            continue
        found.edges += 1
        if distance > EDGE:
            found.failures.append(f"step {k}, row {row}: outcome {outcome}, torch says {expected}")


def _sampled(scaled: NDArray[np.float64], uniform: float, outcome: int) -> tuple[int, float]:
    """The outcome in float64, and how far the random number is from the runtime's outcome."""
    weights = np.exp(scaled - scaled.max())
    cdf = weights.cumsum() / weights.sum()
    threshold = min(uniform, LARGEST_UNIFORM)
    low = cdf[outcome - 1] if outcome > 0 else 0.0
    return int((cdf <= threshold).sum()), float(max(low - threshold, threshold - cdf[outcome], 0.0))


def _check_rows_are_independent(
    found: Verification, manifest: Manifest, session: onnxruntime.InferenceSession, rng: np.random.Generator
) -> None:
    """A row's bits must not depend on who shares the batch."""
    rows, steps = max(ROWS), max(STEPS)
    inputs = {"token": rng.integers(0, len(manifest.symbols), rows), **_random_inputs(manifest, rows, steps, rng)}
    inputs |= _random_state(manifest, rows, rng)
    together = _named(session, inputs)
    for first, last in ((0, 1), (5, 6), (3, 10), (rows - 1, rows)):
        alone = _named(session, _rows(inputs, first, last))
        expected = _rows(together, first, last)
        if not all(np.array_equal(alone[name], expected[name]) for name in alone):
            found.failures.append(f"rows {first} to {last - 1} alone differ from the same rows among {rows}")


def _named(session: onnxruntime.InferenceSession, inputs: Arrays) -> Arrays:
    return dict(zip((output.name for output in session.get_outputs()), session.run(None, inputs), strict=True))


def _rows(arrays: Arrays, first: int, last: int) -> Arrays:
    """Rows of the batch: the second axis of arrays [K, B], the first of all others."""
    over_steps = {"forced", "uniform", "tokens"}
    return {
        name: np.ascontiguousarray(array[:, first:last] if name in over_steps else array[first:last])
        for name, array in arrays.items()
    }


def _difference(found: NDArray[np.float32], expected: Tensor) -> float:
    """The largest; infinite where either is not finite, since NaN is never larger than anything."""
    difference = float(np.abs(found - expected.numpy()).max(initial=0.0))
    return difference if math.isfinite(difference) else math.inf
