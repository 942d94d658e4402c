"""ONNX Runtime against torch: does a bundle compute what the model does?

The reference runs in torch, one step at a time; in 8 or 16 bits it is the torch model with such matmuls. It is fed with
the runtime's outcomes, so that every step is compared from the same history; an outcome that differs is accepted only
where the random number lies on the edge between two characters, closer than roundings can tell.

The graphs for a device run on the CPU here. There onnxruntime drops most of the roundings to 16 bits: what is compared
is the graph and its weights, and the device's own arithmetic is what a server's probe sees.
"""

from collections.abc import Callable, Iterator
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
from export.verification.device_loop import InPlace
from export.verification.expected_outcome import Choice
from export.verification.onnx_session import Arrays, Runtime, RuntimeFailure
from export.verification.tolerance import TOLERANCES, Verification
from models.network.char_lm import CharLM, ModelConfig, State

__all__ = ["reference_of_bundle", "verify"]

# One step of the reference: token [B], state -> logits [B, V], state.
Reference = Callable[[Tensor, State], tuple[Tensor, State]]

ROWS, STEPS, CHAINED_RUNS = (1, 2, 7, 64), (1, 5, 16), 3
# Of the rows held and staged so many are chosen, some twice.
HELD, STAGED, CHOSEN = 7, 3, 12


def verify(manifest: Manifest, files: dict[str, bytes], model: CharLM | StepGraph) -> list[Verification]:
    """Compares the bundle's graphs with a torch model: chained steps from a random state, several B and K, rows that
    are forced, sampled, greedy or limited, and each row alone against the row in the batch."""
    step = model if isinstance(model, StepGraph) else StepGraph(model).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        found = [_verify_step(manifest, files[STEP], _reference(model), rng)]
        for precision in manifest.precisions:
            reduced = step.at(precision)
            reference = _reference(model if reduced is step else reduced)
            for name, steps in _graphs_of(precision):
                verification = Verification(name, TOLERANCES[precision])
                try:
                    _verify_graph(verification, manifest, Runtime(files[name]), reference, rng, steps)
                except RuntimeFailure as error:
                    verification.failures.append(str(error))
                found.append(verification.conclude())
    return found


def _graphs_of(precision: Precision) -> Iterator[tuple[str, int | None]]:
    """Names of the files, and the number of steps where it is fixed."""
    numbers = DEVICE_STEPS if precision in ON_DEVICE else (None,)
    for file, steps in product((decode_file, full_file), numbers):
        yield file(precision, steps), steps


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


def _verify_graph(
    found: Verification,
    manifest: Manifest,
    runtime: Runtime,
    step: Reference,
    rng: np.random.Generator,
    fixed: int | None,
) -> None:
    """Args: fixed: the graph's number of steps, if it has no loop."""
    loop = runtime if fixed is None else InPlace(runtime, manifest)
    numbers = STEPS if fixed is None else (fixed,)
    for rows, steps in product(ROWS, numbers):
        _verify_chain(found, manifest, loop, step, rows, steps, rng)
    _verify_independence(found, manifest, loop, max(numbers), rng)
    if fixed is not None:
        _verify_sources(found, manifest, runtime, fixed, rng)


def _verify_chain(
    found: Verification,
    manifest: Manifest,
    runtime: Runtime | InPlace,
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
    edges = found.edges_of(logits)
    for row, outcome in enumerate(outcomes.tolist()):
        limits = {name: inputs[name][row].item() for name in ("top_k", "top_p", "min_p") if name in inputs}
        parts = (inputs["forced"][k, row], inputs["uniform"][k, row], inputs["temperature"][row])
        with np.errstate(invalid="ignore"):  # what is not finite is accepted by no comparison
            same, close = Choice(*(part.item() for part in parts), **limits).accepts(biased[row], outcome, edges[row])
        found.outcomes += 1
        found.edges += close and not same
        found.different += not close


def _verify_independence(
    found: Verification, manifest: Manifest, runtime: Runtime | InPlace, steps: int, rng: np.random.Generator
) -> None:
    """A row's bits must not depend on who shares the batch; where they do, its numbers may but little."""
    rows, apart = max(ROWS), found.tolerance.batch
    inputs = _random_inputs(manifest, rows, steps, rng, full=found.file.startswith("full"))
    inputs |= _random_begin(manifest, rows, rng)
    together = runtime.run(inputs)
    if apart:
        inputs["forced"] = together["tokens"]  # one outcome on an edge, and nothing after it could be compared
    for first, last in ((0, 1), (5, 6), (3, 10), (rows - 1, rows)):
        alone = runtime.run(_rows(inputs, first, last))
        expected = _rows(together, first, last)
        if not all(np.allclose(alone[name], expected[name], rtol=0, atol=apart) for name in alone):
            found.failures.append(f"rows {first} to {last - 1} alone differ from the same rows among {rows}")


def _verify_sources(
    found: Verification, manifest: Manifest, runtime: Runtime, steps: int, rng: np.random.Generator
) -> None:
    """Rows that join, move, are there twice or are left out go on as from where their source says."""
    held, staged = (_random_begin(manifest, rows, rng) for rows in (HELD, STAGED))
    inputs = _random_inputs(manifest, CHOSEN, steps, rng, full=found.file.startswith("full"))
    source = rng.integers(0, HELD + STAGED, CHOSEN)
    begin = {name: np.concatenate([held[name], staged[name]])[source] for name in held}
    moved = runtime.run({**inputs, **held, **{f"staged_{name}": staged[name] for name in staged}, "source": source})
    expected = InPlace(runtime, manifest).run({**inputs, **begin})
    if not all(np.array_equal(moved[name], expected[name]) for name in moved):
        found.failures.append("rows do not begin where their source says")


def _random_begin(manifest: Manifest, rows: int, rng: np.random.Generator) -> Arrays:
    """The last characters and the states of rows."""
    return {"token": rng.integers(0, len(manifest.symbols), rows), **_random_state(manifest, rows, rng)}


def _rows(arrays: Arrays, first: int, last: int) -> Arrays:
    """Rows of the batch: the second axis of arrays [K, B], the first of all others."""
    over_steps = {"forced", "uniform", "tokens", "logprobs"}
    return {
        name: np.ascontiguousarray(array[:, first:last] if name in over_steps else array[first:last])
        for name, array in arrays.items()
    }
