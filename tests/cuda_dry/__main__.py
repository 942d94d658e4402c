"""onnxruntime-gpu's own binary under the real server, on a CUDA that executes nothing and counts everything.

    make cuda-dry

It fetches onnxruntime-gpu (256 MB) and makes `pip install .[gpu]` with fake libraries in the place of NVIDIA's, all in
.cuda-dry. What it shows is flow: where operators run after onnxruntime has fused them, what captures hold and forbid,
copies, waits, memory. Results are zeros, so nothing is said about numbers or times. Exit code 0: all as designed, or
not run, with the reason; 1: not as designed.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.cuda_dry.environment import FOLDER, ROOT, CannotPrepare, digest, environment, make_once, variables

BUNDLES, EXPORTED_BY = FOLDER / "bundles", ("bundle", "export", "models/network")
PRECISIONS = ("fp32", "fp32-cuda", "fp16-cuda")
CHECKS = ("installation", "graphs", "runs", "server")
SECONDS = 600  # for a check; all of them take two minutes


def export() -> None:
    """Export the two models that are served."""
    from benchmarks.support.servers import untrained_bundle
    from bundle.write import write_bundle
    from export.build import build
    from tests.conftest import OTHER_CELLS

    untrained_bundle(BUNDLES / "lstm", layers=2, hidden=512, precisions=PRECISIONS)
    write_bundle(BUNDLES / "gru", *build(OTHER_CELLS["gru"](), "gru", "1", PRECISIONS))


def main() -> int:
    try:
        python = environment()
    except CannotPrepare as reason:
        print(f"cuda-dry: skipped: {reason}")
        return 0
    sources = (file for folder in EXPORTED_BY for file in (ROOT / folder).rglob("*.py"))
    make_once(BUNDLES, digest(Path(__file__), *sources), export)
    # The first that fails ends it: the others rest on it.
    failed = next((name for name in CHECKS if not passes(python, name)), None)
    print(f"cuda-dry: {failed} failed" if failed else "cuda-dry: all as designed")
    return 1 if failed else 0


def passes(python: Path, name: str) -> bool:
    print(f"== {name}", flush=True)
    command = [python, "-m", f"tests.cuda_dry.check_{name}", BUNDLES]
    # A session of its own, so that its servers end with it.
    with subprocess.Popen(command, env=variables(), start_new_session=True) as process:
        try:
            return process.wait(SECONDS) == 0
        except subprocess.TimeoutExpired:
            print(f"NO {name} ends within {SECONDS} s", flush=True)
            return False
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
