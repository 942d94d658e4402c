"""A row's bits do not depend on how many rows run beside it, nor on how many steps a run has.

That holds for the operators that the graphs use, as this onnxruntime runs them; onnxruntime promises nothing. Where it
breaks, a seed no longer gives the same text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.manifest import Manifest, Precision
from bundle.read import decode_file, full_file
from server.runtime.host_runner import Runner
from tests.conftest import OTHER_CELLS, ExportOnce, Files, tiny_model

pytestmark = pytest.mark.slow

Array = NDArray[np.generic]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
# The default of max_batch; every size up to two blocks of the kernels, and what lies about their larger blocks' ends.
MOST = 256
BATCHES = (*range(1, 35), 47, 48, 49, *range(63, 67), 95, 96, 97, *range(127, 131), MOST)
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

    @property
    def bits(self) -> list[Array]:
        """What `row` has, of all rows at once: bytes, [B, N] each."""
        arrays = (*(array.swapaxes(0, 1) for array in self.steps), *self.after)
        return [np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1) for array in arrays]


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


# Every cell; sizes that fill no vector; many characters; and a size of real models, whose kernels work in blocks.
LARGE = "lstm 1x512"


@pytest.fixture(scope="module", params=["tiny", *OTHER_CELLS, LARGE])
def files(
    request: pytest.FixtureRequest, tiny_files: Files, cell_files: Callable[[str], Files], export_once: ExportOnce
) -> Files:
    if request.param == LARGE:
        return export_once(tiny_model(layers=1, hidden=512), "large")
    return tiny_files if request.param == "tiny" else cell_files(request.param)


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
    runs = [graph.run(inputs.rows(slice(row, row + 1))) for row in range(MOST)]
    assert len({run.row(0)[0] for run in runs}) > MOST // 4, "rows that are alike show nothing"
    alone = [np.concatenate(arrays) for arrays in zip(*(run.bits for run in runs), strict=True)]
    for batch in BATCHES:
        together = graph.run(inputs.rows(slice(0, batch))).bits
        for expected, found in zip(alone, together, strict=True):
            different = np.flatnonzero((expected[:batch] != found).any(1))
            assert not len(different), f"rows {different} of {batch}"


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
