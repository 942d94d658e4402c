"""What runs cost, what captures hold, and what a second model does to the captures of the first."""

import os
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from bundle.manifest import Precision
from bundle.read import Bundle, read_bundle
from server.engine.plan import Area
from server.engine.state_store import Store, idle_input
from server.runtime.device_runner import DeviceRunner, require_cuda
from server.runtime.device_states import DeviceStore
from server.runtime.load import device_graphs, load
from server.settings import ServerSettings
from tests.cuda_dry.fake_device import VIOLATION, Check, accept_zeros, counts, device, reset
from tests.server.engine_driver import EngineDriver, WatchedRunner, generation

ROWS, RUNS = 64, 50
# Beside another model's loading a capture lasts at least so long.
CAPTURE_MILLISECONDS = 20
# A decode run uploads source, forced, uniform and temperature, and fetches the tokens; the full graph adds bias, top_k,
# top_p and min_p.
UPLOADS, DOWNLOADS = {False: 4, True: 8}, 1
# Nodes of a decode step.
MOST_NODES = 48


def store_of(bundle: Bundle, precision: Precision) -> DeviceStore:
    runner = DeviceRunner(device_graphs(bundle.files, precision), threads=1, provider="cuda", tf32=False)
    return DeviceStore(runner, bundle.manifest, (ROWS,))


def captured_nodes(bundle: Bundle, precision: Precision) -> dict[tuple[bool, int], int]:
    """Return the nodes of each captured graph, by (full, steps)."""
    first = device().fake_captures()
    store = store_of(bundle, precision)
    kinds = store.device._arrays.kinds
    store.device.warm_up(lambda *what: None)
    store.close()
    files = (Path(f"{os.environ['FAKE_GRAPHS']}.{first + number}") for number in range(len(kinds)))
    lengths = [len(file.read_text().splitlines()) for file in files]
    return {(kind.full, kind.steps): length for kind, length in zip(kinds, lengths, strict=True)}


def check_nodes(check: Check, bundle: Bundle) -> None:
    for precision in ("fp16-cuda", "fp32-cuda"):
        nodes = captured_nodes(bundle, precision)
        decode, full = ((nodes[kind, 64] - nodes[kind, 16]) / 48 for kind in (False, True))
        name = f"{bundle.manifest.name} {precision}"
        text = f"{name}: {decode:.1f} nodes a step in decode, {full:.1f} in full"
        check.that(decode <= MOST_NODES, f"{text}, at most {MOST_NODES} in decode")
    found = counts()
    check.nothing(found, VIOLATION, "no call that a capture forbids")
    check.nothing(found, "CAPTURED", "no captured graph copies from the host, or calls it")
    check.nothing(found, "STALE", "no replay reads what is gone")


def check_runs(check: Check, bundle: Bundle) -> None:
    store = store_of(bundle, "fp16-cuda")
    states, vocab = store.states[Area.DECODE], len(bundle.manifest.symbols)
    states.warm_up(lambda *what: None)
    for full in (False, True):
        inputs = idle_input(ROWS, ROWS, 4, vocab)
        reset()
        for _ in range(RUNS):
            states.run(inputs, full=full)
        found, name = counts(), "full" if full else "decode"
        copies = {what: count for what, count in found.items() if what.startswith("cudaMemcpy ")}
        up = sum(count for what, count in copies.items() if what.endswith("->device"))
        down = sum(count for what, count in copies.items() if what.split()[-1].startswith("device->"))
        waits, launches = found.get("cudaStreamSynchronize", 0), found.get("cudaGraphLaunch", 0)
        check.that(up == RUNS * UPLOADS[full], f"{name}: {UPLOADS[full]} uploads a run", up / RUNS)
        check.that(down == RUNS * DOWNLOADS, f"{name}: {DOWNLOADS} download a run", down / RUNS)
        check.that(waits == RUNS, f"{name}: one wait for the device a run", waits / RUNS)
        check.that(launches == RUNS, f"{name}: one launch a run", launches / RUNS)
        others = {what: count for what, count in found.items() if what in ("kernel launches", "cudaMalloc", "cudaFree")}
        check.that(not others, f"{name}: nothing is launched or allocated beside it", others)
    store.close()


@dataclass
class Loaded(WatchedRunner):
    """The store of a loaded model, for EngineDriver."""

    loaded: Store

    def __post_init__(self) -> None:
        self.runs, self.before_run = [], lambda: None

    def store(self, max_rows: int, max_batch: int) -> Store:
        return self.loaded


def serve_once(bundle: Bundle) -> EngineDriver:
    """Load, warm up, run some texts and end, as a server does; return what still is there when a model is unloaded."""
    loaded = load(bundle, ServerSettings(provider="cuda", max_rows=ROWS))
    with EngineDriver(Loaded(loaded.store), bundle.manifest, max_rows=ROWS, warm=True) as driver:
        for seed in range(3):
            driver.ask(generation(bundle.manifest, "To be", 100, seed=seed, checkpoint_chars=32))
        driver.finish()
    return driver


def check_neighbours(check: Check, one: Bundle, two: Bundle) -> None:
    """Load, serve and unload one model in a thread, while another does the same in its own."""
    reset()
    device().fake_slow_captures(CAPTURE_MILLISECONDS)
    errors = list[BaseException]()

    def go_on(bundle: Bundle) -> None:
        try:
            for _ in range(3):
                serve_once(bundle)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=go_on, args=(bundle,)) for bundle in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    device().fake_slow_captures(0)
    found = counts()
    check.that(not errors, "two models load, serve and unload beside each other", errors)
    check.that(found.get("captures", 0) > 50, f"{found.get('captures')} captures were made meanwhile")
    check.nothing(found, VIOLATION, "none was broken by the other model")


def check_memory(check: Check, bundle: Bundle) -> None:
    """The memory of a model's sessions is free when its engine has ended, whoever still has the engine."""
    kept, bytes_after = [], list[int]()
    for _ in range(3):
        kept.append(serve_once(bundle))
        bytes_after.append(device().fake_device_bytes())
    # What onnxruntime keeps for the buffers of the next model is the same each time.
    check.that(
        bytes_after[0] == bytes_after[-1], "no memory of the device is lost when a model is unloaded", bytes_after
    )


def main(bundles: Path) -> int:
    check = Check()
    require_cuda()
    accept_zeros()
    one, two = read_bundle(bundles / "lstm"), read_bundle(bundles / "gru")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FAKE_GRAPHS"] = f"{folder}/graph"
        check_nodes(check, one)
        del os.environ["FAKE_GRAPHS"]
    check_runs(check, two)
    check_neighbours(check, one, two)
    check_memory(check, two)
    return check.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
