"""Makes a bundle's graphs ready to run, in the best precision and on the best provider that work here."""

import hashlib
import logging
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product

import numpy as np

from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import ON_DEVICE, Manifest, Precision
from bundle.probe import ROWS, probe_inputs
from bundle.read import Bundle, decode_file, full_file
from server.engine.plan import Area
from server.engine.state_store import Store, idle_input
from server.runtime.comparison import Comparison
from server.runtime.device_runner import DeviceRunner
from server.runtime.device_states import DeviceStore
from server.runtime.host_runner import CannotRun, Provider, Runner, RuntimeMissing, has_cuda
from server.runtime.host_states import HostStates, HostStore
from server.runtime.probe import Pass, digest_of, short_inputs
from server.settings import ServerSettings

__all__ = ["BEST", "Loaded", "device_graphs", "files_to_load", "load"]

log = logging.getLogger("charstream.models")

# The first of these precisions that may be served is served, unless the next one is faster on the device.
BEST: tuple[Precision, ...] = ("fp16-cuda", "fp32-cuda", "int8", "fp32")
# The speed that twice the threads must bring, or the cores are better left to the event loop.
WORTH = 1.3
# How long a thread may keep the interpreter lock while another waits; Python's own is 5 ms (docs/decisions.md).
DEVICE_SWITCH_SECONDS = 0.0005
# The speed that fp32-cuda must bring, or fp16-cuda is taken: so several servers on one kind of device take the same.
WORTH_ON_DEVICE = 1.1
# onnxruntime's TopK for CUDA sorts larger vocabularies row by row: at 1,024 rows thousands of launches a step.
MOST_SYMBOLS_ON_CUDA = 4096
TIMED_ROWS, TIMED_STEPS, TIMED_RUNS = 64, 4, 5


@dataclass(frozen=True)
class Loaded:
    """A model in one precision, with no rows yet.

    Attributes:
        provider: as onnxruntime names it.
        device: where it runs.
        numerics: digest of the probe's result on this machine.
    """

    precision: Precision
    provider: str
    device: str
    store: Store
    numerics: str


def load(bundle: Bundle, settings: ServerSettings) -> Loaded:
    """Load the graphs of the best precision that the settings allow, the bundle has, and works here.

    Of two that work on CUDA it is the faster one.

    Raises:
        CannotRun: onnxruntime refuses a graph, or the probe does not come to what the manifest or the host says.
        RuntimeMissing: the provider cannot be had.
    """
    name, choices = bundle.manifest.name, list(_choices(bundle.manifest, settings))
    on_cuda, found = sum(provider == "cuda" for _, provider in choices), None
    for number, (precision, provider) in enumerate(choices):
        if found and provider != "cuda":
            break
        try:
            loaded = _load(bundle, settings, precision, provider)
        except (CannotRun, RuntimeMissing) as error:
            others = [(found.precision, provider)] if found else choices[number + 1 :]
            if not others:
                raise
            message = "%s: %s on %s does not work here, %s on %s is tried: %s"
            log.warning(message, name, precision, provider, *others[0], error)
            continue
        if provider != "cuda" or on_cuda == 1:
            return loaded
        found = _faster(found, loaded, name) if found else loaded
    assert found, "the last choice works, or raises why it does not"
    return found


def _faster(preferred: Loaded, other: Loaded, name: str) -> Loaded:
    """Return the one whose steps are shorter, as its buckets are used; close the other one. Raises CannotRun."""
    stores = [loaded.store for loaded in (preferred, other)]
    first, second = (store.device.step_seconds() for store in stores if isinstance(store, DeviceStore))
    log.info(
        "%s: a step takes %.1f us in %s and %.1f us in %s here",
        name,
        1e6 * first,
        preferred.precision,
        1e6 * second,
        other.precision,
    )
    chosen, closed = (other, preferred) if second * WORTH_ON_DEVICE < first else (preferred, other)
    closed.store.close()
    return chosen


def _choices(manifest: Manifest, settings: ServerSettings) -> Iterator[tuple[Precision, Provider]]:
    """Yield the precisions and providers that may be served, the best first. Raises CannotRun if none may."""
    wanted = settings.precision
    precisions = [p for p in BEST if p in manifest.precisions and wanted in ("auto", p)]
    if not precisions:
        raise CannotRun(f"--precision {wanted}: the bundle has {' and '.join(manifest.precisions)}")
    on_device = [p for p in precisions if p in ON_DEVICE]
    if settings.provider == "cuda" and not on_device:
        raise CannotRun(
            f"--provider cuda: the bundle has {' and '.join(manifest.precisions)}, none of them for a device: "
            "charstream export --precision fp32,fp32-cuda,fp16-cuda writes them"
        )
    takes_cuda = settings.provider == "cuda" or (settings.provider == "auto" and has_cuda())
    if settings.provider == "auto" and takes_cuda and not on_device:
        log.info("%s: the bundle has nothing for CUDA, so the CPU serves it", manifest.name)
    if takes_cuda and on_device and (symbols := len(manifest.symbols)) > MOST_SYMBOLS_ON_CUDA:
        reason = f"the bundle has {symbols:,} symbols, and CUDA serves at most {MOST_SYMBOLS_ON_CUDA:,}"
        if settings.provider == "cuda":
            raise CannotRun(f"--provider cuda: {reason}: --provider cpu serves it")
        log.info("%s: %s, so the CPU serves it", manifest.name, reason)
        takes_cuda = False
    if takes_cuda:
        yield from product(on_device, ("cuda",))
    if settings.provider != "cuda":
        # Without CUDA the graphs for a device are slow: who asks for them gets them.
        yield from product([p for p in precisions if p not in ON_DEVICE or p == wanted], ("cpu",))


def _load(bundle: Bundle, settings: ServerSettings, precision: Precision, provider: Provider) -> Loaded:
    manifest = bundle.manifest
    if precision in ON_DEVICE:
        return _load_device(bundle, settings, precision, provider)
    runner, threads = _fastest(bundle, precision, settings)
    numerics = digest_of(_host_passes(runner, manifest), manifest, precision)
    store = HostStore(runner, manifest, settings.max_rows, settings.max_batch)
    return Loaded(precision, runner.provider, f"{threads} threads" if threads > 1 else "1 thread", store, numerics)


def _load_device(bundle: Bundle, settings: ServerSettings, precision: Precision, provider: Provider) -> Loaded:
    manifest = bundle.manifest
    if provider == "cpu":
        log.warning("%s: %s is for CUDA; the CPU runs it slowly", manifest.name, precision)
    # Beside a device the host's threads compete for nothing but the interpreter.
    sys.setswitchinterval(DEVICE_SWITCH_SECONDS)
    runner = DeviceRunner(
        device_graphs(bundle.files, precision), threads=settings.threads or 1, provider=provider, tf32=settings.tf32
    )
    store = DeviceStore(runner, manifest, settings.bucket_sizes)
    rounds = precision == "fp16-cuda" or (provider == "cuda" and settings.tf32)
    try:
        numerics = _device_numerics(store, Comparison(bundle, precision, rounds), settings.bucket_sizes)
    except BaseException:
        store.close()
        raise
    return Loaded(precision, runner.provider, runner.device, store, numerics)


def device_graphs(files: Mapping[str, bytes], precision: Precision) -> dict[tuple[bool, int], bytes]:
    """Return the graphs by (full, steps), as DeviceRunner takes them."""
    names = {False: decode_file, True: full_file}
    return {(full, steps): files[names[full](precision, steps)] for full, steps in product(names, DEVICE_STEPS)}


def files_to_load(precision: Precision) -> set[str]:
    """Return the names of the files that `load` needs for a precision: for a device the host's, too."""
    counts = DEVICE_STEPS if precision in ON_DEVICE else (None,)
    names = {name(precision, steps) for name, steps in product((decode_file, full_file), counts)}
    return names | files_to_load("fp32") if precision in ON_DEVICE else names


def _host_passes(runner: Runner, manifest: Manifest) -> Iterator[Pass]:
    """Yield the passes of one row alone, and of the manifest's rows together."""
    vocab = len(manifest.symbols)
    for rows, full in product((1, ROWS), (True, False)):
        # The manifest has the texts of all rows together.
        forced, uniform = probe_inputs(vocab, rows) if rows == ROWS and not full else short_inputs(vocab, rows)
        logprobs = np.empty(full * forced.size * vocab, np.float32)
        states = HostStates(runner, manifest, rows, rows, logprobs)
        first = 0 if rows == ROWS else None
        yield Pass(states, full, rows, len(forced), forced, uniform, ends=True, first=first)


def _device_numerics(store: DeviceStore, comparison: Comparison, buckets: Sequence[int]) -> str:
    """Return the digest; one that no other server has if a text may depend on what runs beside it.

    Raises CannotRun if the device does not compute what the host does.
    """
    manifest, precision, states = comparison.bundle.manifest, comparison.precision, store.states[Area.DECODE]

    def digest_of_kind(full: bool, bucket: int, steps: int) -> str:
        comparison.check(states, full, bucket, steps, store.limits.newcomers)
        passes = _device_passes(store, manifest, full, bucket, steps)
        return digest_of(passes, manifest, precision, comparison.check_outcomes)

    digests = {
        full: [digest_of_kind(full, bucket, size) for bucket, size in product(buckets, steps)]
        for full, steps in ((False, store.limits.steps), (True, store.limits.full_steps))
    }
    name, digest = manifest.name, hashlib.sha256("".join(chain(*digests.values())).encode())
    if len(buckets) > 1:
        log.warning("%s: with several --buckets a text may depend on how many run beside it", name)
    elif any(len(set(found)) > 1 for found in digests.values()):
        log.warning(
            "%s: roundings depend on the steps of a run here, so a text may depend on what runs beside it", name
        )
    else:
        return digest.hexdigest()[:16]
    digest.update(os.urandom(digest.digest_size))
    return digest.hexdigest()[:16]


def _device_passes(store: DeviceStore, manifest: Manifest, full: bool, bucket: int, steps: int) -> Iterator[Pass]:
    """Yield the passes of the manifest's rows, as many at a time as may come in with a run."""
    forced, uniform = (short_inputs if full else probe_inputs)(len(manifest.symbols), ROWS)
    count = min(ROWS, bucket, store.limits.newcomers)
    for first in range(0, ROWS, count):
        rows = slice(first, first + count)
        yield Pass(store.states[Area.DECODE], full, bucket, steps, forced[:, rows], uniform[:, rows], first=first)


def _fastest(bundle: Bundle, precision: Precision, settings: ServerSettings) -> tuple[Runner, int]:
    """Return a runner with the number of threads that is asked for, or the fastest, and that number."""
    if settings.threads:
        return _with_threads(bundle, precision, settings.threads), settings.threads
    # One core is the event loop's.
    most = max(1, len(os.sched_getaffinity(0)) - 1)
    best = _with_threads(bundle, precision, 1)
    threads, seconds = 1, _run_seconds(best, bundle.manifest) if most > 1 else 0.0
    while 2 * threads <= most:
        runner = _with_threads(bundle, precision, 2 * threads)
        other = _run_seconds(runner, bundle.manifest)
        if seconds < WORTH * other:
            break
        best, threads, seconds = runner, 2 * threads, other
    return best, threads


def _with_threads(bundle: Bundle, precision: Precision, threads: int) -> Runner:
    manifest, files = bundle.manifest, bundle.files
    graphs = files[decode_file(precision)], files[full_file(precision)]
    return Runner(*graphs, manifest.model, len(manifest.symbols), threads=threads)


def _run_seconds(runner: Runner, manifest: Manifest) -> float:
    """Return the seconds of a run, the median of several."""
    states = HostStates(runner, manifest, TIMED_ROWS, TIMED_ROWS, np.empty(0, np.float32))
    inputs, seconds = idle_input(TIMED_ROWS, TIMED_ROWS, TIMED_STEPS, len(manifest.symbols)), []
    for _ in range(TIMED_RUNS + 1):
        begin = time.perf_counter()
        states.run(inputs, full=False)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])
