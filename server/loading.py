"""A bundle's graphs, ready to run: in which precision, on how many threads, and do they compute what was exported?"""

import hashlib
import logging
import os
import statistics
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Manifest, Precision
from bundle.probe import ROWS, SAMPLED, probe_inputs
from bundle.read import Bundle, decode_file, full_file
from server.host_states import HostStates
from server.runner import CannotRun, Runner
from server.settings import ServerSettings
from server.states import idle_inputs

__all__ = ["load_runner", "probe"]

log = logging.getLogger("charstream.models")

CPU = "CPUExecutionProvider"
# A second thread must bring this much, or the core is better left to the event loop.
WORTH = 1.3
TIMED_ROWS, TIMED_STEPS, TIMED_RUNS = 64, 4, 5


def load_runner(bundle: Bundle, settings: ServerSettings) -> tuple[Precision, Runner, str]:
    """The precision that is served, its runner, and the digest of its probe: the numerics of this machine.

    Raises:
        CannotRun: onnxruntime refuses a graph, or the probe does not come to what the manifest says.
        RuntimeMissing: the provider cannot be had.
    """
    manifest = bundle.manifest
    if settings.precision not in ("auto", *manifest.precisions):
        raise CannotRun(f"--precision {settings.precision}: the bundle has {' and '.join(manifest.precisions)}")
    if settings.precision != "auto":
        runner = _runner(bundle, settings.precision, settings)
        return settings.precision, runner, probe(runner, manifest, settings.precision)
    if "int8" in manifest.precisions:
        runner = _runner(bundle, "int8", settings)
        try:
            if runner.provider == CPU:
                return "int8", runner, probe(runner, manifest, "int8")
        except CannotRun as error:
            log.warning("%s: 8 bits do not work here, float32 is served: %s", manifest.name, error)
    runner = _runner(bundle, "fp32", settings)
    return "fp32", runner, probe(runner, manifest, "fp32")


def probe(runner: Runner, manifest: Manifest, precision: Precision) -> str:
    """Runs the probe and digests its bits: equal digests promise equal text for equal bundles.

    Raises:
        CannotRun: its text is not the manifest's, or it leaves the vocabulary or the finite numbers.
    """
    digest = hashlib.sha256()
    vocab = len(manifest.symbols)
    for rows in (1, ROWS):
        forced, uniform = probe_inputs(vocab, rows)
        state = np.zeros((rows, manifest.model.hidden), np.float32)
        before: list[NDArray[Any]] = [np.zeros(rows, np.int64), *(state for _ in manifest.model.state_names)]
        after = [np.empty_like(array) for array in before]
        loop, bounds = (forced, uniform, np.ones(rows, np.float32)), _bounds(rows, vocab)
        tokens, logprobs = np.empty_like(forced), np.empty((*forced.shape, vocab), np.float32)
        runner.full(before, loop, bounds, tokens, logprobs, after)
        _take_in(digest, vocab, tokens, logprobs, *after)
        runner.decode(before, loop, tokens, after)
        _take_in(digest, vocab, tokens, *after)
    _compare(manifest, precision, tokens[-SAMPLED:])
    return digest.hexdigest()[:16]


def _bounds(rows: int, vocab: int) -> list[NDArray[np.generic]]:
    zeros = (np.zeros((rows, vocab), np.float32), np.zeros(rows, np.float32))
    return [zeros[0], np.full(rows, 5), np.full(rows, 0.9, np.float32), zeros[1]]


def _take_in(digest: "hashlib._Hash", vocab: int, tokens: NDArray[np.int64], *others: NDArray[np.generic]) -> None:
    """Raises CannotRun."""
    if tokens.min() < 0 or tokens.max() >= vocab or not all(np.isfinite(array).all() for array in others):
        raise CannotRun("the probe leads to characters that the vocabulary lacks, or to a state that is not finite")
    for array in (tokens, *others):
        digest.update(array.tobytes())


def _compare(manifest: Manifest, precision: Precision, tokens: NDArray[np.int64]) -> None:
    """Raises CannotRun."""
    for row, expected in enumerate(manifest.probe[precision]):
        found = manifest.vocabulary.symbols_of(tokens[: len(expected), row])
        if found != expected:
            raise CannotRun(f"the probe's row {row} is {found!r} here, the manifest says {expected!r}")


def _runner(bundle: Bundle, precision: Precision, settings: ServerSettings) -> Runner:
    """With the number of threads that is asked for, or the fastest."""
    if settings.threads:
        return _with_threads(bundle, precision, settings, settings.threads)
    # One core is the event loop's.
    most = max(1, len(os.sched_getaffinity(0)) - 1)
    best = _with_threads(bundle, precision, settings, 1)
    threads, seconds = 1, _timed(best, bundle.manifest) if most > 1 else 0.0
    while 2 * threads <= most and best.provider == CPU:
        threads *= 2
        runner = _with_threads(bundle, precision, settings, threads)
        other = _timed(runner, bundle.manifest)
        if seconds < WORTH * other:
            break
        best, seconds = runner, other
    return best


def _with_threads(bundle: Bundle, precision: Precision, settings: ServerSettings, threads: int) -> Runner:
    manifest, files = bundle.manifest, bundle.files
    return Runner(
        files[decode_file(precision)],
        files[full_file(precision)],
        manifest.model,
        len(manifest.symbols),
        threads=threads,
        provider=settings.provider,
    )


def _timed(runner: Runner, manifest: Manifest) -> float:
    """Seconds of a run, the median of several."""
    states = HostStates(runner, manifest, TIMED_ROWS, TIMED_ROWS, np.empty(0, np.float32))
    inputs, seconds = idle_inputs(TIMED_ROWS, TIMED_ROWS, TIMED_STEPS, len(manifest.symbols)), []
    for _ in range(TIMED_RUNS + 1):
        begin = time.perf_counter()
        states.run(inputs, full=False)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])
