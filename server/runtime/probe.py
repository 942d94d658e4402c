"""The probe: it shows whether this machine computes what was exported, and which machines compute the same.

It is the fixed run of bundle/probe.py, with the states and the graphs that will be served.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Manifest, Precision
from bundle.probe import SAMPLED, probe_inputs
from server.engine.messages import RowState
from server.engine.state_store import LOGPROBS, Limits, RunInput, States
from server.runtime.host_runner import CannotRun

__all__ = ["LARGE", "Pass", "digest_of", "short_inputs"]

Array = NDArray[Any]
# The sampling limits of the probe in the full graph.
TOP_K, TOP_P = 5, 0.9
# In a vocabulary of more symbols not every pass forces all of them: V times V log-probabilities would be gigabytes.
LARGE = 4096


@dataclass(frozen=True)
class Pass:
    """The probe's K steps for some rows.

    Attributes:
        full: it runs the full graph.
        rows: how many a run has; those beyond n are idle.
        steps: of one run; outcomes beyond K, of the last one, are ignored.
        forced, uniform: [K, n].
        ends: the states at the end count, too.
        first: the manifest's number of the first of these rows; None: it has no texts for them.
        begin: the rows at the beginning; None: token 0, and states of zeros.
    """

    states: States
    full: bool
    rows: int
    steps: int
    forced: NDArray[np.int64]
    uniform: NDArray[np.float32]
    ends: bool = False
    first: int | None = None
    begin: Sequence[RowState] | None = None

    def run(self, manifest: Manifest) -> list[Array]:
        """Return the outcomes [K, n], the full graph's log-probabilities [K, n, V], and the end. Raises CannotRun."""
        shape, (steps, count) = manifest.model, self.forced.shape
        zeros = tuple(np.zeros(shape.hidden, np.float32) for _ in shape.state_names)
        for slot in range(count):
            self.states.put(slot, self.begin[slot] if self.begin else RowState(0, zeros, 0))
        parts = zip(*self._parts(len(manifest.symbols)), strict=True)
        return [np.concatenate(arrays)[:steps] for arrays in parts] + (self._end(count) if self.ends else [])

    def _parts(self, vocab: int) -> Iterator[list[Array]]:
        """Yield copies of what came out of each run."""
        steps, count = self.forced.shape
        missing = (0, -steps % self.steps), (0, self.rows - count)
        forced, uniform = np.pad(self.forced, missing), np.pad(self.uniform, missing)
        temperature, limits = np.ones(self.rows, np.float32), _limits(self.rows, vocab)
        for begin in range(0, len(forced), self.steps):
            part = slice(begin, begin + self.steps)
            outcomes = self.states.run(RunInput(0, forced[part], uniform[part], temperature, limits), full=self.full)
            arrays: list[Array] = [outcomes.tokens, outcomes.logprobs] if self.full else [outcomes.tokens]
            yield [array[:, :count].copy() for array in arrays]

    def _end(self, count: int) -> list[Array]:
        ends = [self.states.take(slot, 0) for slot in range(count)]
        return [np.array([end.token for end in ends]), *map(np.stack, zip(*(end.state for end in ends), strict=True))]


def digest_of(
    passes: Iterable[Pass],
    manifest: Manifest,
    precision: Precision,
    check_outcomes: Callable[[Pass, Array], None] = lambda one, tokens: None,
) -> str:
    """Return a digest of what the passes make: equal digests promise equal text for equal bundles.

    Args:
        check_outcomes: takes each pass and its outcomes [K, n].

    Raises:
        CannotRun: the text is not the manifest's, or leaves the vocabulary or the finite numbers.
    """
    digest = hashlib.sha256()
    for one in passes:
        tokens, *others = one.run(manifest)
        if tokens.min() < 0 or tokens.max() >= len(manifest.symbols) or not all(np.isfinite(a).all() for a in others):
            raise CannotRun("the probe leads to characters that the vocabulary lacks, or to a state that is not finite")
        for array in (tokens, *others):
            digest.update(np.ascontiguousarray(array).data)
        check_outcomes(one, tokens)
        if one.first is not None and not one.full:
            _compare(manifest, precision, one.first, tokens[-SAMPLED:])
    return digest.hexdigest()[:16]


def short_inputs(vocab: int, rows: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the inputs of bundle/probe.py; in a large vocabulary the last steps, whose scores are those of one run."""
    forced, uniform = probe_inputs(vocab, rows)
    steps = max(SAMPLED, LOGPROBS // (rows * vocab)) if vocab > LARGE else len(forced)
    return forced[-steps:], uniform[-steps:]


def _limits(rows: int, vocab: int) -> Limits:
    zeros = np.zeros((rows, vocab), np.float32)
    return Limits(zeros, np.full(rows, min(TOP_K, vocab)), np.full(rows, TOP_P, np.float32), np.zeros(rows, np.float32))


def _compare(manifest: Manifest, precision: Precision, first: int, tokens: NDArray[np.int64]) -> None:
    """Raise CannotRun if the tokens are not the manifest's texts."""
    texts = manifest.probe[precision][first : first + tokens.shape[1]]
    for row, expected in enumerate(texts):
        found = manifest.vocabulary.tokens_to_symbols(tokens[: len(expected), row])
        if found != expected:
            raise CannotRun(f"the probe's row {first + row} is {found!r} here, the manifest says {expected!r}")
