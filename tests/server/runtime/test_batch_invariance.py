"""A row's bits do not depend on how many rows run beside it, nor on how many steps a run has.

That holds for the operators that the graphs use, as this onnxruntime runs them; onnxruntime promises nothing. Where it
breaks, a seed no longer gives the same text.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bundle.manifest import Manifest, Precision, TrainingRecord
from bundle.read import decode_file, full_file
from bundle.vocabulary import Vocabulary
from export.build import build
from export.graph.sampling import TRIANGLE_CHARS
from models.network.char_lm import CharLM, ModelConfig
from models.training.checkpoint import Trained
from server.runtime.host_runner import Runner
from tests.conftest import tiny_model

pytestmark = pytest.mark.slow

Files = tuple[Manifest, dict[str, bytes]]
Array = NDArray[np.generic]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
# The default of max_batch, and every size up to one beyond the kernels' blocks.
MOST = 256
BATCHES = (*range(1, 131), MOST)
STEPS = 2


@dataclass
class Inputs:
    """Rows of every kind, in any state: forced and sampled, greedy and hot, with limits and without."""

    token: Array
    state: list[Array]
    forced: Array
    uniform: Array
    temperature: Array
    limits: list[Array]

    @classmethod
    def random(cls, manifest: Manifest, rows: int, steps: int) -> "Inputs":
        rng, vocab = np.random.default_rng(0), len(manifest.symbols)
        shape = (rows, manifest.model.hidden)
        spread = {"h": 0.5, "c": 3.0}
        return cls(
            token=rng.integers(0, vocab, rows),
            state=[
                # A hidden state lies between -1 and 1; a cell's does not.
                (spread[name[0]] * (rng.random(shape) * 4 - 2)).astype(np.float32)
                for name in manifest.model.state_names
            ],
            forced=np.where(rng.random((steps, rows)) < 0.2, rng.integers(0, vocab, (steps, rows)), -1),
            uniform=rng.random((steps, rows), np.float32),
            temperature=rng.choice([0, 0.5, 1, 1.5], rows).astype(np.float32),
            limits=[
                rng.normal(size=(rows, vocab)).astype(np.float32),
                rng.choice([1, 5, vocab], rows),
                rng.choice([0.5, 0.9, 1.0], rows).astype(np.float32),
                rng.choice([0.0, 0.05], rows).astype(np.float32),
            ],
        )

    def rows(self, which: slice) -> "Inputs":
        return Inputs(
            self.token[which],
            [array[which] for array in self.state],
            np.ascontiguousarray(self.forced[:, which]),
            np.ascontiguousarray(self.uniform[:, which]),
            self.temperature[which],
            [array[which] for array in self.limits],
        )

    def steps(self, which: slice, token: Array, *state: Array) -> "Inputs":
        """Those steps, from where the ones before ended."""
        return Inputs(token, list(state), self.forced[which], self.uniform[which], self.temperature, self.limits)


@dataclass
class Outputs:
    """`steps`: tokens, and of the full graph log-probabilities, [K, B]. `after`: last token and state, [B, ...]."""

    steps: list[Array]
    after: list[Array]

    def row(self, row: int) -> list[bytes]:
        parts = (*(array[:, row] for array in self.steps), *(array[row] for array in self.after))
        return [part.tobytes() for part in parts]


class Graph:
    """A bundle's decode or full graph."""

    def __init__(self, files: Files, precision: Precision, full: bool) -> None:
        self.manifest, data = files
        self._full = full
        graphs = data[decode_file(precision)], data[full_file(precision)]
        vocab = len(self.manifest.symbols)
        self._runner = Runner(*graphs, self.manifest.model, vocab, threads=1)

    def run(self, x: Inputs) -> Outputs:
        before, loop = [x.token, *x.state], (x.forced, x.uniform, x.temperature)
        tokens, after = np.empty_like(x.forced), [np.empty_like(array) for array in before]
        if not self._full:
            self._runner.decode(before, loop, tokens, after)
            return Outputs([tokens], after)
        logprobs = np.empty((*x.forced.shape, len(self.manifest.symbols)), np.float32)
        self._runner.full(before, loop, x.limits, tokens, logprobs, after)
        return Outputs([tokens, logprobs], after)


def many_characters() -> Trained:
    """An Elman RNN that knows so many characters that their shares are added up by CumSum."""
    torch.manual_seed(0)
    vocab = TRIANGLE_CHARS + 75
    symbols = "".join(map(chr, range(0x4E00, 0x4E00 + vocab)))
    model = CharLM(ModelConfig(cell="rnn", vocab=vocab, layers=2, hidden=64, embedding=16)).eval()
    with torch.no_grad():
        model.head.weight.mul_(40)
    record = TrainingRecord(
        data="none", data_sha256="0" * 64, parameters=0, steps=0, seconds=0, validation_nats={"carried": 4.5}
    )
    return Trained(model, Vocabulary(symbols), symbols[0], record)


# Every cell; sizes that fill no vector; many characters; and a size of real models, whose kernels work in blocks.
MODELS = {
    "lstm 2x64": None,  # the bundle of the other tests
    "gru 2x50": lambda: tiny_model(cell="gru", hidden=50),
    "rnn tanh 2x64, many characters": many_characters,
    "rnn sigmoid 2x50": lambda: tiny_model(cell="rnn", activation="sigmoid", hidden=50),
    "rnn softplus 2x50, layer normalisation, residual": lambda: tiny_model(
        cell="rnn", activation="softplus", form="pre", norm="layer", residual=True, hidden=50
    ),
    "lstm 2x512": lambda: tiny_model(hidden=512),
}


@pytest.fixture(scope="module", params=MODELS)
def files(request: pytest.FixtureRequest, tiny_files: Files) -> Files:
    return built(request.param) if MODELS[request.param] else tiny_files


@cache
def built(name: str) -> Files:
    """Kept, because fixtures of several parameters come and go."""
    return build(MODELS[name](), "model", "1")


@pytest.fixture(scope="module", params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> Precision:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=["decode", "full"])
def graph(request: pytest.FixtureRequest, files: Files, precision: Precision) -> Graph:
    if precision not in files[0].precisions:
        pytest.skip("it has no 8 bits")
    return Graph(files, precision, full=request.param == "full")


def test_a_row_has_the_same_bits_in_every_batch(graph: Graph) -> None:
    inputs = Inputs.random(graph.manifest, MOST, STEPS)
    alone = [graph.run(inputs.rows(slice(row, row + 1))).row(0) for row in range(MOST)]
    assert len({row[0] for row in alone}) > MOST // 4, "rows that are alike show nothing"
    for batch in BATCHES:
        together = graph.run(inputs.rows(slice(0, batch)))
        different = [row for row in range(batch) if together.row(row) != alone[row]]
        assert not different, f"of {batch} rows"


def test_a_row_has_the_same_bits_however_its_steps_are_cut(graph: Graph) -> None:
    rows, steps = 7, 16
    inputs = Inputs.random(graph.manifest, rows, steps)
    at_once = graph.run(inputs)
    for cuts in (range(steps + 1), (0, 5, steps)):
        parts, after = [], [inputs.token, *inputs.state]
        for begin, end in pairwise(cuts):
            part = graph.run(inputs.steps(slice(begin, end), *after))
            parts.append(part.steps)
            after = part.after
        joined = Outputs([np.concatenate(arrays) for arrays in zip(*parts, strict=True)], after)
        assert [*map(joined.row, range(rows))] == [*map(at_once.row, range(rows))]
