"""`charstream serve` as it was installed: it reaches CUDA, refuses its zeros, and names a library that is missing."""

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cuda_dry.environment import LIBRARIES, ROOT
from tests.cuda_dry.fake_device import Check

NVIDIA = Path(sysconfig.get_path("purelib")) / "nvidia"
CUDART = NVIDIA / "cu13/lib/libcudart.so.13"
FILES = [
    NVIDIA / "cu13/lib/libcublasLt.so.13",
    NVIDIA / "cu13/lib/libcublas.so.13",
    NVIDIA / "cu13/lib/libcurand.so.10",
    NVIDIA / "cudnn/lib/libcudnn.so.9",
    CUDART,
    LIBRARIES / "driver/libcuda.so.1",
]
# A toolkit on this machine may have a libcudart, which would be found by the system's list of libraries.
WITHOUT_THE_SYSTEMS = ("/lib64/ld-linux-x86-64.so.2", "--inhibit-cache", sys.executable)
# Python runs it at its start: the installed server then takes the zeros of the fake device.
TAKE_ZEROS = f"""
import sys
sys.path.append({str(ROOT)!r})
from tests.cuda_dry.fake_device import accept_zeros
accept_zeros()
"""
SECONDS = 60  # for a server, which ends by itself or when it is told to


@contextmanager
def hidden(path: Path) -> Iterator[None]:
    aside = path.with_name(f"hidden-{path.name}")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def serve(bundle: Path, *flags: str, by: Sequence[str] = (), take_zeros: bool = False) -> str:
    """Return what the server says until it serves, or ends. It is killed if it does neither."""
    command = [*by, Path(sys.prefix) / "bin" / "charstream", "serve", "--models", bundle, "--port", "0", *flags]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        if take_zeros:
            Path(folder, "sitecustomize.py").write_text(TAKE_ZEROS)
        environment = os.environ | {"PYTHONPATH": folder}
        # Not in the source's folder, whose packages would come first.
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment) as process:
            limit = threading.Timer(SECONDS, process.kill)
            limit.start()
            assert process.stderr
            for line in process.stderr:
                lines.append(line)
                if " serves " in line:
                    process.terminate()
            limit.cancel()
    return "".join(lines) + f"(exit code {process.returncode})"


def check_missing(check: Check, bundle: Path, path: Path) -> None:
    """Without one library `--provider cuda` ends and names it; `auto` says the same, and serves on the CPU."""
    by = WITHOUT_THE_SYSTEMS if path == CUDART else ()
    with hidden(path):
        cuda, auto = (serve(bundle, "--provider", name, "--max-rows", "4", by=by) for name in ("cuda", "auto"))
    words = re.search(rf"provider cuda: {re.escape(path.name)}.*", cuda)
    check.that(words and "(exit code 1)" in cuda, f"without {path.name} it says so and ends", cuda)
    check.that(words and words.group() in auto, "with --provider auto it warns with the same words", auto)
    check.that("CPUExecutionProvider" in auto, "and serves on the CPU", auto)


def main(bundles: Path) -> int:
    check, bundle = Check(), bundles / "gru"
    cuda = ("--provider", "cuda", "--max-rows", "4")
    said = serve(bundle, *cuda, take_zeros=True)
    check.that("CUDAExecutionProvider, cuda:0" in said, "--provider cuda starts and reports CUDA", said)
    check.that("plugin" not in said, "onnxruntime prints nothing of its own", said)
    for precision in ("fp32-cuda", "fp16-cuda"):
        said = serve(bundle, *cuda, "--precision", precision)
        is_refused = "the device does not go on from forced characters" in said and "(exit code 1)" in said
        check.that(is_refused, f"its zeros are refused in {precision}", said)
    for path in FILES:
        check_missing(check, bundle, path)
    return check.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
