"""How often each character is drawn, with every limit and their combinations: as docs/design.md, section 5, defines it.

The graphs draw 100,000 characters at one place of a text; the definition is computed here in float64 from the
log-probabilities that the graph itself states for that place.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bundle.graph_contract import FLOAT, full_outputs
from bundle.manifest import Manifest, Precision
from bundle.philox import uniforms
from bundle.read import decode_file, full_file
from server.runtime.host_runner import Runner

Files = tuple[Manifest, dict[str, bytes]]
Array = NDArray[np.generic]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

DRAWS, ROWS = 100_000, 5_000
SIGNIFICANCE = 0.001
LEAST_EXPECTED = 5  # what rarer characters are counted together for


@dataclass(frozen=True)
class Case:
    """A place in a text, and how characters are drawn there."""

    prompt: str = ""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    biased: bool = False
    banned: str = ""
    allowed: str = ""

    def bias(self, vocabulary: str) -> NDArray[np.float32]:
        """[V] as the graph takes it; -inf for what must not come."""
        spread = 1.5 if self.biased else 0.0
        bias = np.random.default_rng(0).normal(scale=spread, size=len(vocabulary)).astype(np.float32)
        allowed = set(self.allowed or vocabulary) - set(self.banned)
        return np.where([character in allowed for character in vocabulary], bias, -np.inf).astype(np.float32)


VOWELS, LOWER = "aeiouAEIOU", " abcdefghijklmnopqrstuvwxyz"
CASES = {
    "none": Case(),
    "temperature": Case("ROMEO:", temperature=0.7),
    "top_k": Case("ROMEO:", top_k=12),
    "top_p": Case("To be", top_p=0.8),
    "min_p": Case("To be", min_p=0.02),
    "bias": Case("q", biased=True),
    "banned": Case("To be", banned=VOWELS),
    "allowed": Case("", allowed=LOWER),
    "top_k, top_p": Case("ROMEO:", top_k=30, top_p=0.9),
    "top_k, min_p": Case("ROMEO:", top_k=15, min_p=0.02),
    "top_p, min_p": Case("q", top_p=0.9, min_p=0.05),
    "top_k, top_p, min_p": Case("To be", top_k=20, top_p=0.95, min_p=0.02),
    "temperature, top_k": Case("To be", temperature=1.4, top_k=20),
    "temperature, top_p": Case("q", temperature=0.6, top_p=0.9),
    "temperature, min_p": Case("ROMEO:", temperature=1.5, min_p=0.07),
    "banned, top_k": Case("ROMEO:", banned=VOWELS, top_k=15),
    "bias, allowed, top_p": Case("To be", biased=True, allowed=LOWER, top_p=0.95),
    "all": Case("q", temperature=1.3, top_k=25, top_p=0.95, min_p=0.12, biased=True, banned=VOWELS),
}
NO_LIMITS: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
EIGHT_BITS = ("none", "all")
DRAWN = [*((name, "fp32") for name in CASES), *((name, "int8") for name in EIGHT_BITS)]


class FullGraph:
    """The full graph of a bundle in one precision, for any number of rows and steps."""

    def __init__(self, files: Files, precision: Precision) -> None:
        self.manifest, data = files
        self.vocab = len(self.manifest.symbols)
        graphs = data[decode_file(precision)], data[full_file(precision)]
        self._runner = Runner(*graphs, self.manifest.model, self.vocab, threads=1)

    def start(self) -> list[Array]:
        """Token and state of one row, before the first character."""
        state = np.zeros((1, self.manifest.model.hidden), np.float32)
        token = self.manifest.vocabulary.encode(self.manifest.start_text)
        return [token, *(state for _ in self.manifest.model.state_names)]

    def read(self, prompt: str) -> list[Array]:
        """Token and state of one row, after the prompt."""
        if not prompt:
            return self.start()
        forced = self.manifest.vocabulary.encode(prompt)[:, None]
        return self.run(self.start(), forced, np.zeros(forced.shape, np.float32), Case())[2]

    def run(self, before: list[Array], forced: Counts, uniform: Array, case: Case) -> tuple[Array, Array, list[Array]]:
        """tokens [K, B], logprobs [K, B, V], and token and state after the last step."""
        steps, rows = forced.shape
        sizes = {"K": steps, "B": rows}
        tokens, token, logprobs, *state = (
            np.empty(
                [sizes.get(str(size), size) for size in spec.shape], np.float32 if spec.type == FLOAT else np.int64
            )
            for spec in full_outputs(self.manifest.model, self.vocab)
        )
        temperature = np.full(rows, case.temperature, np.float32)
        limits = (
            np.tile(case.bias(self.manifest.symbols), (rows, 1)),
            np.full(rows, case.top_k or self.vocab),
            np.full(rows, case.top_p, np.float32),
            np.full(rows, case.min_p, np.float32),
        )
        self._runner.full(before, (forced, uniform, temperature), limits, tokens, logprobs, [token, *state])
        return tokens, logprobs, [token, *state]


def definition(logprobs: Floats, case: Case, vocabulary: str) -> Floats:
    """The probability of each character [V]: docs/design.md, section 5."""
    logits = (logprobs + case.bias(vocabulary)) / case.temperature
    p = np.exp(logits - logits.max())
    p /= p.sum()
    ordered = np.sort(p)[::-1]
    p = np.where(p >= ordered[(case.top_k or len(p)) - 1], p, 0)
    if case.top_p < 1:
        p /= p.sum()
        ordered = np.sort(p)[::-1]
        needed = int(np.argmax(ordered.cumsum() >= case.top_p))  # the place of the one that reaches it
        p = np.where(p >= ordered[needed], p, 0)
    p = np.where(p >= case.min_p * p.max(), p, 0)
    return np.asarray(p / p.sum())


def p_value(counts: Counts, probabilities: Floats) -> float:
    """How probable draws are that are no better: Pearson's chi-squared test, rare characters taken together."""
    expected = probabilities * counts.sum()
    order = np.argsort(expected)
    beyond = int(np.argmax((expected[order] >= LEAST_EXPECTED) & (expected[order].cumsum() >= LEAST_EXPECTED)))
    groups = [order[: beyond + 1], *order[beyond + 1 :, None]]
    got, wanted = (np.array([values[group].sum() for group in groups]) for values in (counts, expected))
    statistic = ((got - wanted) ** 2 / wanted).sum()
    return _upper(len(groups) - 1, statistic)


def _upper(freedom: int, statistic: float) -> float:
    """The chi-squared distribution's upper tail."""
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


class Drawn:
    """What each case draws; kept, since it is looked at more than once."""

    def __init__(self, files: Files) -> None:
        self._graph = cache(lambda precision: FullGraph(files, precision))
        self.vocabulary = files[0].symbols
        self.case = cache(self._case)

    def _case(self, name: str, precision: Precision) -> tuple[Counts, Floats]:
        """How often each character came [V], and the model's log-probabilities of that place [V]."""
        graph, case = self._graph(precision), CASES[name]
        before = [np.repeat(array, ROWS, axis=0) for array in graph.read(case.prompt)]
        seed, sampled = DRAWN.index((name, precision)), np.full((1, ROWS), -1)
        counts = np.zeros(graph.vocab, np.int64)
        for first in range(0, DRAWS, ROWS):
            numbers = uniforms(np.full(ROWS, seed), np.arange(first, first + ROWS), 1)
            tokens, logprobs, _ = graph.run(before, sampled, numbers, case)
            counts += np.bincount(tokens[0], minlength=graph.vocab)
        assert (logprobs == logprobs[0, 0]).all(), "one place, one distribution"
        return counts, logprobs[0, 0].astype(np.float64)


@pytest.fixture(scope="module")
def drawn(tiny_files: Files) -> Drawn:
    return Drawn(tiny_files)


@pytest.mark.parametrize(("name", "precision"), DRAWN, ids=[f"{name}-{precision}" for name, precision in DRAWN])
def test_draws_follow_the_exact_distribution(drawn: Drawn, name: str, precision: Precision) -> None:
    counts, logprobs = drawn.case(name, precision)
    exact = definition(logprobs, CASES[name], drawn.vocabulary)
    assert counts.sum() == DRAWS
    assert not counts[exact == 0].any(), "a character came that is excluded"
    assert p_value(counts, exact) > SIGNIFICANCE


@pytest.mark.parametrize("name", CASES)
def test_every_limit_above_excludes_something_by_itself(drawn: Drawn, name: str) -> None:
    """Limits that exclude nothing would show nothing."""
    case, logprobs = CASES[name], drawn.case(name, "fp32")[1]
    none = replace(case, **NO_LIMITS)
    support = np.count_nonzero(definition(logprobs, none, drawn.vocabulary))
    for limit in NO_LIMITS:
        alone = replace(none, **{limit: getattr(case, limit)})
        if alone != none:
            assert np.count_nonzero(definition(logprobs, alone, drawn.vocabulary)) < support, limit


@pytest.mark.parametrize("name", ["bias", "all"])
def test_a_temperature_that_is_off_by_three_percent_is_noticed(drawn: Drawn, name: str) -> None:
    """What the test above would say if the graph were a little wrong."""
    counts, logprobs = drawn.case(name, "fp32")
    for factor in (0.97, 1.03):
        wrong = replace(CASES[name], temperature=CASES[name].temperature * factor)
        assert p_value(counts, definition(logprobs, wrong, drawn.vocabulary)) < SIGNIFICANCE


def test_the_tail_is_that_of_the_tables() -> None:
    """Abramowitz and Stegun, table 26.8."""
    assert _upper(1, 3.84146) == pytest.approx(0.05, rel=1e-4)
    assert _upper(20, 45.3147) == pytest.approx(0.001, rel=1e-4)
