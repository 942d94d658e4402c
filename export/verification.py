"""ONNX Runtime against torch: does a bundle compute what the model does?

The reference runs in torch, one step at a time; in 8 bits it is the quantised torch model. It is fed with the runtime's
outcomes, so that every step is compared from the same history; an outcome that differs is accepted only where the
random number lies on the edge between two characters, closer than roundings can tell.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from bundle.manifest import Manifest, Precision
from bundle.read import STEP, decode_file, full_file
from export.graphs import StepGraph
from export.outcomes import Choice
from export.runtime import Arrays, Runtime, RuntimeFailure
from models.model import CharLM, ModelConfig, State

__all__ = ["Verification", "reference_of_bundle", "verify"]

# One step of the reference: token [B], state -> logits [B, V], state.
Reference = Callable[[Tensor, State], tuple[Tensor, State]]

ROWS, STEPS, CHAINED_RUNS = (1, 2, 7, 64), (1, 5, 16), 3


@dataclass(frozen=True)
class Tolerance:
    """How two correct implementations may differ.

    Attributes:
        rows: share of the compared rows that may be further apart than roundings.
        outcomes: share of the outcomes that may differ.
    """

    rows: float
    outcomes: float


# In 8 bits all sums are exact, and most rows agree as in float32. But the last bit of a sigmoid may move an input of
# the next matmul by a whole level of 1/127, and the row with it: of a trained LSTM 2x512 2 % of the rows. A wrong
# weight, scale or gate moves every row.
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(rows=0.005, outcomes=0.0),
    "int8": Tolerance(rows=0.25, outcomes=0.002),
}
# What roundings come to within a run: a trained model showed 4e-5 after 48 steps (its logits reach 20); a wrong weight
# or gate shows more than 0.1. Recurrent weights that amplify may take a row beyond it now and then.
ROUNDING = 1e-3
EDGE = 1e-5  # of a cumulated probability
# Roundings grow with the numbers: both bounds are for logits and states up to this, and wider in proportion beyond it.
USUAL = 20.0


@dataclass
class Verification:
    """What was found for one file, and what is wrong: nothing, if `failures` is empty.

    Attributes:
        largest: difference of a logit, log-probability or state.
        rows, moved: rows of such values that were compared, and those of them that differ by more than roundings.
        outcomes, edges, different: compared, accepted on an edge between two characters, and not accepted.
    """

    file: str
    tolerance: Tolerance
    largest: float = 0.0
    rows: int = 0
    moved: int = 0
    outcomes: int = 0
    edges: int = 0
    different: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.failures

    def compare(self, found: NDArray[np.generic], expected: Tensor) -> None:
        """Takes in values [B] or [B, N] and what they should be."""
        exact = expected.double().numpy().reshape(len(found), -1)
        apart = np.abs(np.asarray(found, np.float64).reshape(exact.shape) - exact).max(1)
        # NaN is never larger than anything.
        apart = np.where(np.isfinite(apart), apart, np.inf)
        self.largest = max(self.largest, float(apart.max()))
        self.rows += len(apart)
        self.moved += int((apart > ROUNDING * np.maximum(1, np.abs(exact).max(1) / USUAL)).sum())

    def conclude(self) -> "Verification":
        if self.largest == np.inf:
            self.failures.append("values that are not finite")
        if self.moved > self.tolerance.rows * self.rows:
            self.failures.append(f"{self.moved} of {self.rows} rows differ by more than {ROUNDING:g}")
        if self.different > self.tolerance.outcomes * self.outcomes:
            self.failures.append(f"{self.different} of {self.outcomes} outcomes are not what torch's logits lead to")
        return self

    def __str__(self) -> str:
        text = f"{self.file}: largest difference {self.largest:.1e}, {self.moved} of {self.rows:,} rows beyond rounding"
        if self.outcomes:
            text += f"; {self.outcomes:,} outcomes, {self.edges} on an edge, {self.different} different"
        return "\n  FAILED: ".join([text, *self.failures])


def verify(manifest: Manifest, files: dict[str, bytes], model: CharLM | StepGraph) -> list[Verification]:
    """Compares the bundle's graphs with a torch model: chained steps from a random state, several B and K, rows that
    are forced, sampled, greedy or limited, and each row alone against the row in the batch."""
    step = model if isinstance(model, StepGraph) else StepGraph(model).eval()
    references: dict[Precision, Reference] = {"fp32": _reference(model)}
    if "int8" in manifest.precisions:
        references["int8"] = _reference(step.quantized())
    rng = np.random.default_rng(0)
    with torch.no_grad():
        found = [_verify_step(manifest, files[STEP], references["fp32"], rng)]
        for precision in manifest.precisions:
            for name in (decode_file(precision), full_file(precision)):
                verification = Verification(name, TOLERANCES[precision])
                try:
                    _verify_loop(verification, manifest, Runtime(files[name]), references[precision], rng)
                except RuntimeFailure as error:
                    verification.failures.append(str(error))
                found.append(verification.conclude())
    return found


def reference_of_bundle(manifest: Manifest, files: dict[str, bytes]) -> StepGraph:
    """The torch module of step.onnx with the weights of the file, for bundles whose training run is gone.

    Raises:
        ValueError: the file's weights have other names.
    """
    config = ModelConfig(vocab=len(manifest.symbols), embedding=1, **manifest.model.model_dump())
    step = StepGraph(CharLM(config)).eval()
    weights = {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load_from_string(files[STEP]).graph.initializer
    }
    missing = sorted(step.state_dict().keys() - weights.keys())
    if missing:
        raise ValueError(f"{STEP} has no weights {missing[0]!r}: it was not written by this version of charstream")
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


def _random_state(manifest: Manifest, rows: int, rng: np.random.Generator) -> Arrays:
    size = (rows, manifest.model.hidden)
    return {name: rng.uniform(-1, 1, size).astype(np.float32) for name in manifest.model.state_names}


def _next(state: Arrays, outputs: Arrays) -> Arrays:
    return {name: outputs[f"{name}_next"] for name in state}


def _tensors(arrays: Arrays) -> State:
    return tuple(torch.from_numpy(array) for array in arrays.values())


def _verify_step(manifest: Manifest, data: bytes, step: Reference, rng: np.random.Generator) -> Verification:
    found, runtime = Verification(STEP, TOLERANCES["fp32"]), Runtime(data)
    for rows in ROWS:
        state = _random_state(manifest, rows, rng)
        expected_state = _tensors(state)
        for _ in range(max(STEPS)):
            token = rng.integers(0, len(manifest.symbols), rows)
            outputs = runtime.run({"token": token, **state})
            expected, expected_state = step(torch.from_numpy(token), expected_state)
            state = _next(state, outputs)
            found.compare(outputs["logits"], expected)
        for array, expected in zip(state.values(), expected_state, strict=True):
            found.compare(array, expected)
    return found.conclude()


def _verify_loop(
    found: Verification, manifest: Manifest, runtime: Runtime, step: Reference, rng: np.random.Generator
) -> None:
    for rows in ROWS:
        for steps in STEPS:
            _verify_chain(found, manifest, runtime, step, rows, steps, rng)
    _verify_independence(found, manifest, runtime, rng)


def _verify_chain(
    found: Verification,
    manifest: Manifest,
    runtime: Runtime,
    step: Reference,
    rows: int,
    steps: int,
    rng: np.random.Generator,
) -> None:
    state = _random_state(manifest, rows, rng)
    token = rng.integers(0, len(manifest.symbols), rows)
    for _ in range(CHAINED_RUNS):
        inputs = _random_inputs(manifest, rows, steps, rng, full=found.file.startswith("full"))
        outputs = runtime.run({"token": token, **inputs, **state})
        expected_state = _replay(found, step, inputs, outputs, torch.from_numpy(token), _tensors(state))
        token, state = outputs["token_next"], _next(state, outputs)
        if (token != outputs["tokens"][-1]).any():
            found.failures.append(f"the last characters differ at {rows} rows, {steps} steps")
        for array, expected in zip(state.values(), expected_state, strict=True):
            found.compare(array, expected)


def _random_inputs(manifest: Manifest, rows: int, steps: int, rng: np.random.Generator, *, full: bool) -> Arrays:
    vocab = len(manifest.symbols)
    forced = rng.integers(0, vocab, (steps, rows))
    inputs: Arrays = {
        "forced": np.where(rng.random((steps, rows)) < 0.5, forced, -1),
        "uniform": rng.random((steps, rows), np.float32),
        "temperature": rng.choice(np.array([0, 0.5, 1, 1.7], np.float32), rows),
    }
    if full:
        # Some rows have no bias and no limits.
        banned = np.where(rng.random((rows, vocab)) < 0.1, -np.inf, rng.normal(size=(rows, vocab)))
        banned[:, int(rng.integers(vocab))] = 0.0
        inputs |= {
            "bias": np.where(rng.random((rows, 1)) < 0.5, banned, 0.0).astype(np.float32),
            "top_k": np.where(rng.random(rows) < 0.5, rng.integers(1, vocab + 1, rows), vocab),
            "top_p": np.where(rng.random(rows) < 0.5, rng.random(rows), 1.0).astype(np.float32),
            "min_p": np.where(rng.random(rows) < 0.3, rng.random(rows) / 4, 0.0).astype(np.float32),
        }
    return inputs


def _replay(
    found: Verification, step: Reference, inputs: Arrays, outputs: Arrays, token: Tensor, state: State
) -> State:
    """Follows the runtime's outcomes [K, B] in torch; returns the state they lead to."""
    for k, outcomes in enumerate(outputs["tokens"]):
        logits, state = step(token, state)
        _check_outcomes(found, logits.double().numpy(), inputs, k, outcomes)
        token = torch.from_numpy(outcomes)
        if "logprobs" in outputs:
            found.compare(outputs["logprobs"][k], logits.log_softmax(1))
    return state


def _check_outcomes(
    found: Verification, logits: NDArray[np.float64], inputs: Arrays, k: int, outcomes: NDArray[np.generic]
) -> None:
    biased = logits + inputs.get("bias", np.zeros(1))
    edges = EDGE * np.fmax(1, np.abs(logits).max(1) / USUAL)
    for row, outcome in enumerate(outcomes.tolist()):
        limits = {name: inputs[name][row].item() for name in ("top_k", "top_p", "min_p") if name in inputs}
        parts = (inputs["forced"][k, row], inputs["uniform"][k, row], inputs["temperature"][row])
        with np.errstate(invalid="ignore"):  # what is not finite is accepted by no comparison
            same, close = Choice(*(part.item() for part in parts), **limits).accepts(biased[row], outcome, edges[row])
        found.outcomes += 1
        found.edges += close and not same
        found.different += not close


def _verify_independence(found: Verification, manifest: Manifest, runtime: Runtime, rng: np.random.Generator) -> None:
    """A row's bits must not depend on who shares the batch."""
    rows, steps = max(ROWS), max(STEPS)
    inputs = _random_inputs(manifest, rows, steps, rng, full=found.file.startswith("full"))
    inputs |= {"token": rng.integers(0, len(manifest.symbols), rows), **_random_state(manifest, rows, rng)}
    together = runtime.run(inputs)
    for first, last in ((0, 1), (5, 6), (3, 10), (rows - 1, rows)):
        alone = runtime.run(_rows(inputs, first, last))
        expected = _rows(together, first, last)
        if not all(np.array_equal(alone[name], expected[name]) for name in alone):
            found.failures.append(f"rows {first} to {last - 1} alone differ from the same rows among {rows}")


def _rows(arrays: Arrays, first: int, last: int) -> Arrays:
    """Rows of the batch: the second axis of arrays [K, B], the first of all others."""
    over_steps = {"forced", "uniform", "tokens", "logprobs"}
    return {
        name: np.ascontiguousarray(array[:, first:last] if name in over_steps else array[first:last])
        for name, array in arrays.items()
    }
