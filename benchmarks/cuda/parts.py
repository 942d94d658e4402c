"""The parts of benchmarks/cuda/__main__.py: each prints its figures, and leaves in a folder what others need."""

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from bundle.manifest import Precision
from bundle.read import MANIFEST, Bundle, read_bundle
from charstream.settings import Settings

__all__ = ["FIGURES", "IN_ORDER_OF_WORTH", "PARTS", "SHORT", "CudaSettings", "Part", "say"]

Part = Literal["export", "device", "smoke", "graph", "engine", "gpu_tests", "grpc", "determinism", "training", "loss"]
# The order of worth, with the seconds that each may take of a run of SHORT: what is cut off has cost the least.
IN_ORDER_OF_WORTH: dict[Part, float] = {
    "device": 30,
    "smoke": 70,
    "graph": 110,
    "engine": 60,
    "gpu_tests": 80,
    "determinism": 60,
    "training": 60,
    "grpc": 70,
}
SHORT = 540
SIZES = {"lstm-2x512": (2, 512), "lstm-3x1024": (3, 1024)}
DELAYS = (20, 100)  # milliseconds that a character may wait
RATES, SPEEDS = "rates-{precision}.json", "speeds.json"  # what a part leaves for others
FIGURES = "figures.jsonl"
CHARS_BAR, STEP_AIM, ENGINE_BAR = 5e6, 60, 0.8
TRAINED: tuple[dict[str, Any], ...] = ({}, {"batch": 512})  # beside the defaults, which are an LSTM 2x512
SMALL = {"layers": 1, "hidden": 32, "embedding": 8, "batch": 8, "sequence": 16}


class CudaSettings(Settings):
    """Measure graphs, engine, server and training on a GPU."""

    provider: Literal["cuda", "cpu"] = Field("cuda", description="cpu: a rehearsal")
    precision: Literal["fp16-cuda", "fp32-cuda"] = Field("fp16-cuda", description="of the graphs")
    short: float = Field(
        0,
        ge=0,
        description=f"seconds for all parts that need no export, in order of worth ({SHORT} are enough); 0: no limit",
    )
    bundle: tuple[Path, ...] = Field(
        (), description="bundle to measure (default: an LSTM 2x512 and one of 3x1024, exported first, in minutes)"
    )
    part: tuple[Part, ...] = Field((), description="this part and no other; one alone runs in this process")
    folder: Path | None = Field(None, description="where parts leave what others need (default: a temporary one)")
    data: str = Field("tinyshakespeare", description="text to train on: a name or a file")
    rows: int = Field(1024, ge=1, description="texts at a time, B")
    seconds: float = Field(2.0, gt=0, description="duration of each measurement")
    clients: int = Field(4, ge=1, description="processes that read what the server sends")
    requests: int = Field(1000, ge=1, description="requests, each made twice")
    minutes: float = Field(10.0, ge=0, description="for the part loss; 0 leaves it out")

    def record(self, name: str, **figures: Any) -> None:
        """Keep figures for the JSON at the end."""
        with self.file(FIGURES).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, **figures}) + "\n")

    @property
    def figures(self) -> list[Any]:
        """All figures that parts have kept."""
        file = self.file(FIGURES)
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def precisions_of(self, bundle: Bundle) -> list[Precision]:
        """The precisions to measure: that of --precision first, the other one too if time is short."""
        there = [p for p in ("fp16-cuda", "fp32-cuda") if p in bundle.manifest.precisions]
        others = [p for p in there if p != self.precision] if self.short else []
        return [self.precision, *others]  # type: ignore[list-item]

    def bundles(self) -> Iterator[Bundle]:
        for path in self.paths:
            yield read_bundle(path)

    @property
    def paths(self) -> list[Path]:
        exported = [self.file(name) for name in SIZES if (self.file(name) / MANIFEST).exists()]
        if not self.bundle and not exported:
            raise SystemExit(f"{self.folder} has no bundle: run the part export first, or give --bundle")
        return list(self.bundle) or exported

    def file(self, name: str) -> Path:
        """Return the path of a file or folder that a part leaves."""
        assert self.folder
        return self.folder / name

    def result(self, name: str) -> Any:
        """Return the figures that another part left; None if it did not."""
        return json.loads(self.file(name).read_text()) if self.file(name).exists() else None

    @property
    def device(self) -> str:
        return "cuda:0" if self.provider == "cuda" else "cpu"


def say(text: str) -> None:
    print(text, flush=True)


def export(settings: CudaSettings) -> None:
    """Export both side by side, and without their cost in nats, which no speed depends on."""
    with ProcessPoolExecutor(len(SIZES), get_context("spawn")) as pool:
        exported = {pool.submit(_export, settings.file(name), settings.precision): name for name in SIZES}
        for future in as_completed(exported):
            say(f"{exported[future]}: {future.result():.0f} s")


def _export(folder: Path, precision: Precision) -> float:
    """Return the seconds that it took."""
    from benchmarks.support.servers import untrained_bundle

    (layers, hidden), begin = SIZES[folder.name], time.monotonic()
    untrained_bundle(folder, layers=layers, hidden=hidden, precisions=("fp32", precision))
    return time.monotonic() - begin


def device(settings: CudaSettings) -> None:
    """Measure the device's own speed, from which the roofline lines of the graphs are made."""
    import torch

    from benchmarks.cuda.roofline import rates

    kinds = {"fp16-cuda": torch.float16, "fp32-cuda": torch.float32}
    for precision in kinds if settings.short else (settings.precision,):
        kind = torch.float32 if settings.provider == "cpu" else kinds[precision]
        found = rates(settings.provider, kind, settings.seconds)
        name = torch.cuda.get_device_name(0) if settings.provider == "cuda" else "the processor"
        say(f"{name}: copies {found.copy / 1e9:,.0f} GB/s, matmuls {found.matmul / 1e12:,.2f} TFLOP/s in {kind}")
        settings.record("device", device=name, precision=precision, **found._asdict())
        settings.file(RATES.format(precision=precision)).write_text(json.dumps(found))


def smoke(settings: CudaSettings) -> None:
    """Load each bundle as a server does: the device is compared with the host, and captured runs with plain ones.

    Where this fails, speeds mean nothing.
    """
    from server.engine.plan import Area
    from server.runtime.load import load
    from server.settings import ServerSettings

    for path, bundle in zip(settings.paths, settings.bundles(), strict=True):
        for precision in settings.precisions_of(bundle):
            begin = time.monotonic()
            given = {"provider": settings.provider, "precision": precision, "max_rows": settings.rows}
            loaded = load(bundle, ServerSettings(models=path, threads=1, **given))
            require_provider(settings, loaded.provider)
            loaded.store.states[Area.DECODE].warm_up(lambda *what: None)
            loaded.store.close()
            seconds = time.monotonic() - begin
            say(f"{_name(bundle)} {precision}: as the host computes it, captured as plain; {seconds:.0f} s to be ready")
            settings.record("smoke", bundle=_name(bundle), precision=precision, seconds=seconds)


def gpu_tests(settings: CudaSettings) -> None:
    """Run the tests that need a GPU."""
    import pytest

    if code := pytest.main(["-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/server/runtime/test_cuda.py"]):
        raise SystemExit(f"pytest: {code!r}")


def graph(settings: CudaSettings) -> None:
    speeds: dict[str, float] = {}
    for bundle in settings.bundles():
        for precision in settings.precisions_of(bundle):
            speed = _graph(settings, bundle, precision)
            speeds[_name(bundle)] = max(speed, speeds.get(_name(bundle), 0))
    say(f"For 2x512: bar {CHARS_BAR:,.0f} chars/s; in a bucket of 1 the aim is {STEP_AIM} us a step")
    settings.file(SPEEDS).write_text(json.dumps(speeds))


def _graph(settings: CudaSettings, bundle: Bundle, precision: Precision) -> float:
    """Measure the default bucket, and smaller ones; return the characters a second of the default one."""
    from benchmarks.cuda.device_graphs import runner_of, time_steps

    runner, name = runner_of(bundle, precision, settings.provider), f"{_name(bundle)} {precision}"
    require_provider(settings, runner.provider)
    best = 0.0
    for rows in dict.fromkeys((settings.rows, 1, *((64,) if settings.short else ()))):
        found = time_steps(runner, bundle, rows, settings.seconds)
        for steps, (alone, copied) in found.items():
            say(
                f"{name} bucket of {rows}, K={steps}: {1e6 * alone:,.1f} us a step, {rows / alone:,.0f} chars/s, "
                f"with copies {rows / copied:,.0f}{_roofline(settings, bundle, precision, rows, alone)}"
            )
            settings.record("graph", bundle=_name(bundle), precision=precision, rows=rows, steps=steps, us=1e6 * alone)
        if rows == settings.rows:
            best, least = max(rows / alone for alone, _ in found.values()), min(copied for _, copied in found.values())
            say(f"{name}: one text alone in the default bucket of {rows}: {1e6 * least:,.1f} us a character")
    return best


def engine(settings: CudaSettings) -> None:
    from benchmarks.speed.engine import engine_chars_per_second
    from server.runtime.load import load
    from server.settings import ServerSettings

    speeds = settings.result(SPEEDS) or {}
    for path, bundle in zip(settings.paths, settings.bundles(), strict=True):
        precision = "auto" if settings.short and settings.provider == "cuda" else settings.precision
        given = {"provider": settings.provider, "precision": precision, "max_rows": settings.rows}
        for delay in DELAYS[:1] if settings.short else DELAYS:
            loaded = load(bundle, ServerSettings(models=path, threads=1, **given))
            require_provider(settings, loaded.provider)
            speed = engine_chars_per_second(
                loaded.store, bundle.manifest, settings.rows, delay / 1000, settings.seconds
            )
            graph_speed = speeds.get(_name(bundle))
            share = f", {speed / graph_speed:.2f} of the graph (bar {ENGINE_BAR})" if graph_speed else ""
            name = f"{_name(bundle)} {loaded.precision}"
            say(f"{name} engine, {settings.rows} texts, {delay} ms: {speed:,.0f} chars/s{share}")
            settings.record("engine", bundle=_name(bundle), precision=loaded.precision, delay=delay, chars=speed)


def grpc(settings: CudaSettings) -> None:
    for path in settings.paths:
        for delay in DELAYS[:1] if settings.short else DELAYS:
            _grpc(settings, path, delay)


def _grpc(settings: CudaSettings, path: Path, delay: int) -> None:
    from benchmarks.support.load import bottleneck, clients_load, percentiles
    from benchmarks.support.servers import serving

    with serving(path, *_serve_flags(settings), "--chunk-delay", str(delay)) as server:
        require_provider(settings, server.log)
        loads = clients_load(server.address, server.pid, settings.rows, settings.seconds, settings.clients)
    first, gap = (
        "{:.1f} (p99 {:.1f})".format(*percentiles([time for times in several for time in times]))
        for several in ([load.first_char for load in loads], [load.gaps for load in loads])
    )
    chars, messages = (
        sum(getattr(load, name) for load in loads) for name in ("chars_per_second", "messages_per_second")
    )
    settings.record("grpc", bundle=path.name, delay=delay, chars=chars, messages=messages)
    say(
        f"{path.name} gRPC, {settings.rows} texts, {delay} ms: {chars:,.0f} "
        f"chars/s, {messages:,.0f} messages/s; first character "
        f"{first} ms, gap {gap} ms\n  {bottleneck([load.cpu for load in loads])}"
    )


def determinism(settings: CudaSettings) -> None:
    from benchmarks.correctness.determinism import compare, random_request
    from benchmarks.support.servers import serving

    different = 0
    for path, bundle in zip(settings.paths, settings.bundles(), strict=True):
        requests = [random_request(seed, bundle.manifest.symbols) for seed in range(settings.requests)]
        with serving(path, *_serve_flags(settings)) as server:
            require_provider(settings, server.log)
            found = compare(server.address, requests)
        say(f"{path.name}: {len(requests):,} requests, {found}")
        settings.record("determinism", bundle=path.name, requests=len(requests), different=found.different)
        different += found.different
    if different:
        raise SystemExit(f"{different} texts differ")


def training(settings: CudaSettings) -> None:
    from benchmarks.cuda.training import chars_per_second

    for number, options in enumerate((SMALL,) if settings.provider == "cpu" else TRAINED):
        folder = settings.file(f"training-{number}")
        found = chars_per_second(settings.data, folder, settings.device, settings.seconds, **options)
        say(
            f"training, {options or 'LSTM 2x512'}: {found.chars_per_second:,.0f} chars/s, "
            f"{found.milliseconds:.2f} ms a step, {found.arithmetic}"
        )
        settings.record("training", options=options, **found._asdict())


def loss(settings: CudaSettings) -> None:
    from benchmarks.cuda.training import LARGER, losses

    options = ({**SMALL, "characters": 20_000},) if settings.provider == "cpu" else LARGER
    best = math.inf
    for found in losses(settings.data, settings.file("runs"), settings.device, settings.minutes, options):
        best = min(best, found.nats)
        say(
            f"{found.options}: {found.nats:.4f} nats after {found.characters:,} characters, {found.seconds:.0f} s; "
            f"best {best:.4f}"
        )


FUNCTIONS = (export, device, smoke, graph, engine, gpu_tests, grpc, determinism, training, loss)
PARTS: dict[Part, Callable[[CudaSettings], None]] = dict(zip(get_args(Part), FUNCTIONS, strict=True))


def require_provider(settings: CudaSettings, found: str) -> None:
    """Raise SystemExit if CUDA did not load, by the provider's name or the server's log."""
    pattern = r"^CUDAExecutionProvider$|serves .*CUDAExecutionProvider"
    if settings.provider == "cuda" and not re.search(pattern, found):
        raise SystemExit(f"CUDAExecutionProvider is not what runs here: {found}")


def _serve_flags(settings: CudaSettings) -> Sequence[str]:
    from benchmarks.support.servers import flags_of

    return flags_of(provider=settings.provider, precision=settings.precision, max_rows=settings.rows, threads=1)


def _roofline(settings: CudaSettings, bundle: Bundle, precision: Precision, rows: int, seconds: float) -> str:
    """Return a line with the least time of a step by the device's own speed, if the part device measured that."""
    found = settings.result(RATES.format(precision=precision))
    if found is None:
        return ""
    from benchmarks.cuda.roofline import Rates, work_of
    from bundle.read import decode_file

    steps = 4
    work = work_of(bundle.files[decode_file(precision, steps)], steps, bundle.manifest.model)
    least = work.seconds(rows, Rates(*found))
    moved = (work.weights + rows * work.row) / 1e6
    return (
        f"\n  roofline: {moved:,.1f} MB and {rows * work.operations / 1e9:,.2f} G operations take "
        f"{1e6 * least:,.1f} us at least, {least / seconds:.2f} of the step"
    )


def _name(bundle: Bundle) -> str:
    return f"{bundle.manifest.name} ({bundle.manifest.model.layers}x{bundle.manifest.model.hidden})"
