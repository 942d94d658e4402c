"""onnxruntime-gpu's own binary under the real server, on a CUDA that executes nothing and counts everything.

    make cuda-dry

It fetches onnxruntime-gpu (256 MB) and makes `pip install .[gpu]` with fake libraries in the place of NVIDIA's, all in
.cuda-dry. What it shows is flow: where operators run after onnxruntime has fused them, what captures hold and forbid,
copies, waits, memory. Results are zeros, so nothing is said about numbers or times. Exit code 0: all as designed, or
not run, with the reason; 1: not as designed.
"""

import subprocess
import sys
from pathlib import Path

from bundle.read import MANIFEST
from tests.cuda_dry.environment import FOLDER, CannotPrepare, environment, variables

BUNDLES = FOLDER / "bundles"
PRECISIONS = ("fp32", "fp32-cuda", "fp16-cuda")
CHECKS = ("installation", "graphs", "runs", "server")


def export() -> None:
    """Export the two models that are served, if this source has not yet done so."""
    from benchmarks.support.servers import untrained_bundle
    from bundle.write import write_bundle
    from export.build import build
    from tests.conftest import OTHER_CELLS

    if not (BUNDLES / "lstm" / MANIFEST).exists():
        untrained_bundle(BUNDLES / "lstm", layers=2, hidden=512, precisions=PRECISIONS)
    if not (BUNDLES / "gru" / MANIFEST).exists():
        write_bundle(BUNDLES / "gru", *build(OTHER_CELLS["gru"](), "gru", "1", PRECISIONS))


def main() -> int:
    try:
        python = environment()
    except CannotPrepare as reason:
        print(f"cuda-dry: skipped: {reason}")
        return 0
    export()
    failed = [name for name in CHECKS if not passes(python, name)]
    print(f"cuda-dry: {', '.join(failed)} failed" if failed else "cuda-dry: all as designed")
    return 1 if failed else 0


def passes(python: Path, name: str) -> bool:
    print(f"== {name}", flush=True)
    command = [python, "-m", f"tests.cuda_dry.check_{name}", BUNDLES]
    return subprocess.run(command, env=variables(), timeout=600).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
