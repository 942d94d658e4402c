"""`charstream serve` as it was installed: it reaches CUDA, refuses its zeros, and names a library that is missing."""

import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cuda_dry.environment import LIBRARIES
from tests.cuda_dry.fake_device import Check

NVIDIA = Path(sysconfig.get_path("purelib")) / "nvidia"
# libcudart is not among them: a CUDA toolkit on this machine may have one, which is then found.
FILES = [
    NVIDIA / "cu13/lib/libcublasLt.so.13",
    NVIDIA / "cu13/lib/libcublas.so.13",
    NVIDIA / "cu13/lib/libcurand.so.10",
    NVIDIA / "cudnn/lib/libcudnn.so.9",
    LIBRARIES / "driver/libcuda.so.1",
]


@contextmanager
def hidden(path: Path) -> Iterator[None]:
    aside = path.with_name(f"hidden-{path.name}")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def serve(bundle: Path, *flags: str, until: str) -> str:
    """Return what the server says until it ends, or says that."""
    command = [Path(sys.prefix) / "bin" / "charstream", "serve", "--models", bundle, "--port", "0", *flags]
    lines = []
    # Not in the source's folder, whose packages would come first.
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder) as process,
    ):
        assert process.stderr
        for line in process.stderr:
            lines.append(line)
            if until in line:
                process.terminate()
    return "".join(lines)


def main(bundles: Path) -> int:
    check, bundle = Check(), bundles / "gru"
    cuda = ("--provider", "cuda", "--max-rows", "4")
    for precision in ("fp32-cuda", "fp16-cuda"):
        said = serve(bundle, *cuda, "--precision", precision, until="serves")
        is_refused = "the device does not go on from forced characters" in said
        check.that(is_refused, f"CUDA loads, and its zeros are refused in {precision}", said)
        check.that("plugin" not in said, "onnxruntime prints nothing of its own", said)
    for path in FILES:
        with hidden(path):
            said = serve(bundle, *cuda, until="serves")
        check.that(f"provider cuda: {path.name}" in said, f"without {path.name} it says so and ends", said)
    with hidden(FILES[0]):
        said = serve(bundle, "--max-rows", "4", until="serves")
    check.that(f"provider cuda: {FILES[0].name}" in said, "with --provider auto it warns with the same words", said)
    check.that("CPUExecutionProvider" in said, "and serves on the CPU", said)
    return check.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
