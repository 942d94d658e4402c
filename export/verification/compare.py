"""Comparison of ONNX Runtime with torch: does a bundle compute what the model does?

The reference runs in torch, one step at a time; in 8 or 16 bits it is the torch model with such matmuls, and in 8 bits
with the file's integers, which are compared with the model's weights (integer_weights.py). It is fed with
the runtime's outcomes, so that every step is compared after the same history; so the runtime runs first, and runs of
several numbers of rows go through the reference side by side. An outcome that differs is accepted only where the random
number lies on the edge between two characters, closer than roundings can tell.

The graphs for a device run on the CPU here. There onnxruntime drops most of the roundings to 16 bits: this compares the
graph and its weights, and the probe of a server shows the device's own arithmetic.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import ON_DEVICE, Manifest, Precision
from bundle.read import STEP, decode_file, full_file
from export.graph.modules import StepGraph
from export.verification.device_loop import DeviceLoop
from export.verification.expected_outcome import Choice
from export.verification.integer_weights import NotTheModels, check_integers, check_sums, integers_of
from export.verification.onnx_session import Arrays, OnnxSession, OnnxSessionError
from export.verification.tolerance import TOLERANCES, Verification
from models.network.char_lm import CharLM, ModelConfig, State

__all__ = ["reference_of_bundle", "verify"]

# One step of the reference: token [B], state -> logits [B, V], state.
Reference = Callable[[Tensor, State], tuple[Tensor, State]]

ROWS, STEPS, CHAINED_RUNS = (1, 2, 7, 64), (1, 5, 16), 3
# Arrays [K, B, ...]; in all others rows come first.
OVER_STEPS = {"forced", "uniform", "tokens", "logprobs"}
# Rows of a device graph's check: 12 are chosen among 10, so some come twice.
HELD, STAGED, CHOSEN = 7, 3, 12


def verify(
    manifest: Manifest,
    files: dict[str, bytes],
    model: CharLM | StepGraph,
    on_result: Callable[[Verification], None] = lambda result: None,
) -> list[Verification]:
    """Compare the bundle's graphs with a torch model.

    Steps are chained from a random state, with several B and K and with rows that are forced, sampled, greedy or
    limited; and each row alone is compared with the same row in a batch.

    Args:
        on_result: called with the result of each graph when it is there, which takes up to some seconds each.
    """
    results = []
    with torch.no_grad():
        for result in _verify_graphs(manifest, files, model):
            on_result(result)
            results.append(result)
    return results


def _verify_graphs(manifest: Manifest, files: dict[str, bytes], model: CharLM | StepGraph) -> Iterator[Verification]:
    step = model if isinstance(model, StepGraph) else StepGraph(model).eval()
    rng = np.random.default_rng(0)
    yield _verify_step(manifest, files[STEP], _reference(model), rng)
    for precision in manifest.precisions:
        counts = DEVICE_STEPS if precision in ON_DEVICE else (None,)
        for file, steps in product((decode_file, full_file), counts):
            result = Verification(file(precision, steps), TOLERANCES[precision])
            try:
                reference = _reduced_reference(step, model, precision, files[result.file])
                session = OnnxSession(files[result.file])
                _LoopComparison(result, manifest, session, reference, rng, steps).run()
            except (NotTheModels, OnnxSessionError) as error:
                result.failures.append(str(error))
            yield result.conclude()


def _reduced_reference(step: StepGraph, model: CharLM | StepGraph, precision: Precision, data: bytes) -> Reference:
    """Return the reference of a file in a precision. Raises NotTheModels."""
    integers = None
    if precision == "int8":
        matmuls = step.matmuls()
        integers = integers_of(data, matmuls)
        check_integers(integers, matmuls)
        check_sums(data, integers)
    reduced = step.in_precision(precision, integers)
    reduced.unpack()
    return _reference(model if precision in ("fp32", "fp32-cuda") else reduced)


def reference_of_bundle(manifest: Manifest, files: dict[str, bytes]) -> StepGraph:
    """Return the torch module of step.onnx with the file's weights, for bundles whose training run is gone.

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
    def step(token: Tensor, state: State) -> tuple[Tensor, State]:
        if isinstance(model, StepGraph):
            logits, *after = model(token, *state)
            return logits, tuple(after)
        logits, state = model(token.unsqueeze(0), state)
        return logits[0], state

    return step


def _verify_step(manifest: Manifest, data: bytes, step: Reference, rng: np.random.Generator) -> Verification:
    result, session = Verification(STEP, TOLERANCES["fp32"]), OnnxSession(data)
    chains = [
        (_random_state(manifest, rows, rng), rng.integers(0, len(manifest.symbols), (max(STEPS), rows)))
        for rows in ROWS
    ]
    states = [state for state, _ in chains]
    expected_state = _tensors(_join_rows(states))
    for tokens in zip(*(tokens for _, tokens in chains), strict=True):
        outputs = [session.run({"token": token, **state}) for token, state in zip(tokens, states, strict=True)]
        expected, expected_state = step(torch.from_numpy(np.concatenate(tokens)), expected_state)
        states = [_state_after(state, found) for state, found in zip(states, outputs, strict=True)]
        result.compare(np.concatenate([found["logits"] for found in outputs]), expected)
    result.compare_states(_join_rows(states), expected_state)
    return result.conclude()


@dataclass(frozen=True)
class _LoopComparison:
    """The comparison of one decode or full graph with the reference.

    Attributes:
        result: takes in the differences.
        steps: of a run, if the graph has no loop.
    """

    result: Verification
    manifest: Manifest
    session: OnnxSession
    reference: Reference
    rng: np.random.Generator
    steps: int | None

    def run(self) -> None:
        """Raises OnnxSessionError."""
        loop = self.session if self.steps is None else DeviceLoop(self.session, self.manifest)
        counts = STEPS if self.steps is None else (self.steps,)
        chains = {sizes: self._random_chain(*sizes) for sizes in product(ROWS, counts)}
        for steps in counts:
            self._compare_chains(loop, steps, [chains[rows, steps] for rows in ROWS])
        self._compare_batches(loop, max(counts))
        if self.steps is not None:
            self._compare_sources(self.steps)

    def _random_chain(self, rows: int, steps: int) -> tuple[Arrays, list[Arrays]]:
        """Return how a chain of runs begins, and what else each run takes."""
        state = _random_state(self.manifest, rows, self.rng)
        start = {"token": self.rng.integers(0, len(self.manifest.symbols), rows), **state}
        return start, [self._random_inputs(rows, steps) for _ in range(CHAINED_RUNS)]

    def _compare_chains(
        self, loop: OnnxSession | DeviceLoop, steps: int, chains: Sequence[tuple[Arrays, list[Arrays]]]
    ) -> None:
        """Compare chains of runs with the reference; each run goes on from the state after the one before."""
        starts = [start for start, _ in chains]
        for others in zip(*(runs for _, runs in chains), strict=True):
            inputs = [start | other for start, other in zip(starts, others, strict=True)]
            outputs = [self._run(loop, one, steps) for one in inputs]
            starts = [_state_after(start, found) for start, found in zip(starts, outputs, strict=True)]
            self._compare_runs(_join_rows(inputs), _join_rows(outputs))

    def _run(self, loop: OnnxSession | DeviceLoop, inputs: Arrays, steps: int) -> Arrays:
        """Return the outputs of a run that others can follow. Raises OnnxSessionError."""
        outputs, sizes = loop.run(inputs), f"at {len(inputs['token'])} rows, {steps} steps"
        if not np.isin(outputs["tokens"], np.arange(len(self.manifest.symbols))).all():
            raise OnnxSessionError(f"outcomes outside the vocabulary {sizes}")
        if (outputs["token_next"] != outputs["tokens"][-1]).any():
            self.result.failures.append(f"the last characters differ {sizes}")
        return outputs

    def _compare_runs(self, inputs: Arrays, outputs: Arrays) -> None:
        token, *state = (torch.from_numpy(inputs[name]) for name in ("token", *self.manifest.model.state_names))
        expected_state = self._follow_outcomes(inputs, outputs, token, tuple(state))
        found = {name: outputs[f"{name}_next"] for name in self.manifest.model.state_names}
        self.result.compare_states(found, expected_state)

    def _follow_outcomes(self, inputs: Arrays, outputs: Arrays, token: Tensor, state: State) -> State:
        """Run the runtime's outcomes [K, B] through the reference, compare each step, and return the last state."""
        for k, outcomes in enumerate(outputs["tokens"]):
            logits, state = self.reference(token, state)
            self._check_outcomes(logits.double().numpy(), inputs, k, outcomes)
            token = torch.from_numpy(outcomes)
            if "logprobs" in outputs:
                self.result.compare(outputs["logprobs"][k], logits.log_softmax(1))
        return state

    def _check_outcomes(
        self, logits: NDArray[np.float64], inputs: Arrays, k: int, outcomes: NDArray[np.generic]
    ) -> None:
        biased = logits + inputs.get("bias", np.zeros(1))
        margins = self.result.outcome_margins(logits)
        for row, outcome in enumerate(outcomes.tolist()):
            limits = {name: inputs[name][row].item() for name in ("top_k", "top_p", "min_p") if name in inputs}
            parts = (inputs["forced"][k, row], inputs["uniform"][k, row], inputs["temperature"][row])
            choice = Choice(*(part.item() for part in parts), **limits)
            with np.errstate(invalid="ignore"):  # no comparison accepts a value that is not finite
                self.result.count_outcome(*choice.accepts(biased[row], outcome, margins[row]))

    def _compare_batches(self, loop: OnnxSession | DeviceLoop, steps: int) -> None:
        """Check that a row's bits do not depend on the batch; where they may, that its numbers hardly do."""
        rows, tolerance = max(ROWS), self.result.tolerance.batch
        inputs = self._random_inputs(rows, steps) | _random_start(self.manifest, rows, self.rng)
        together = loop.run(inputs)
        if tolerance:
            inputs["forced"] = together["tokens"]  # after one outcome on an edge nothing could be compared
        for first, last in ((0, 1), (5, 6), (3, 10), (rows - 1, rows)):
            alone = loop.run(_take_rows(inputs, first, last))
            expected = _take_rows(together, first, last)
            if not all(np.allclose(alone[name], expected[name], rtol=0, atol=tolerance) for name in alone):
                self.result.failures.append(f"rows {first} to {last - 1} alone differ from the same rows among {rows}")

    def _compare_sources(self, steps: int) -> None:
        """Check that rows which join, move, come twice or are left out go on from where their source says."""
        held, staged = (_random_start(self.manifest, rows, self.rng) for rows in (HELD, STAGED))
        inputs = self._random_inputs(CHOSEN, steps)
        source = self.rng.integers(0, HELD + STAGED, CHOSEN)
        start = {name: np.concatenate([held[name], staged[name]])[source] for name in held}
        staged_inputs = {f"staged_{name}": array for name, array in staged.items()}
        moved = self.session.run({**inputs, **held, **staged_inputs, "source": source})
        expected = DeviceLoop(self.session, self.manifest).run({**inputs, **start})
        if not all(np.array_equal(moved[name], expected[name]) for name in moved):
            self.result.failures.append("rows do not begin where their source says")

    def _random_inputs(self, rows: int, steps: int) -> Arrays:
        vocab, rng = len(self.manifest.symbols), self.rng
        forced = rng.integers(0, vocab, (steps, rows))
        inputs: Arrays = {
            "forced": np.where(rng.random((steps, rows)) < 0.5, forced, -1),
            "uniform": rng.random((steps, rows), np.float32),
            "temperature": rng.choice(np.array([0, 0.5, 1, 1.7], np.float32), rows),
        }
        if self.result.file.startswith("full"):
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


def _random_start(manifest: Manifest, rows: int, rng: np.random.Generator) -> Arrays:
    """Return last tokens and states for rows."""
    return {"token": rng.integers(0, len(manifest.symbols), rows), **_random_state(manifest, rows, rng)}


def _random_state(manifest: Manifest, rows: int, rng: np.random.Generator) -> Arrays:
    size = (rows, manifest.model.hidden)
    return {name: rng.uniform(-1, 1, size).astype(np.float32) for name in manifest.model.state_names}


def _state_after(state: Arrays, outputs: Arrays) -> Arrays:
    return {name: outputs[f"{name}_next"] for name in state}


def _tensors(arrays: Arrays) -> State:
    return tuple(torch.from_numpy(array) for array in arrays.values())


def _join_rows(runs: Sequence[Arrays]) -> Arrays:
    """Return the rows of several runs of equally many steps side by side; the reverse of `_take_rows`."""
    return {name: np.concatenate([run[name] for run in runs], int(name in OVER_STEPS)) for name in runs[0]}


def _take_rows(arrays: Arrays, first: int, last: int) -> Arrays:
    """Return some rows of the batch."""
    return {
        name: np.ascontiguousarray(array[:, first:last] if name in OVER_STEPS else array[first:last])
        for name, array in arrays.items()
    }
