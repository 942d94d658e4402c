"""Make one archive with all that `python -m benchmarks.cuda --short` needs where there is a GPU and no index.

    python -m benchmarks.cuda.pack --bundle FOLDER [--data FILE] --out cuda.tar.xz

It holds this source as it is committed, what serving and training import beside torch, onnxruntime-gpu with the machine
code of one architecture (thin_library.py), and the bundles. There, `unpack.sh cuda.tar.xz FOLDER` unpacks and runs it;
it needs Python of the version that packs, torch for CUDA 13 and what comes with that (numpy, NVIDIA's packages).
"""

import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from benchmarks.cuda.thin_library import thin_library
from charstream.settings import Settings, fail, parse
from tests.cuda_dry.environment import CannotPrepare, environment, variables

COMMAND = "python -m benchmarks.cuda.pack"
ROOT = Path(__file__).parents[2]
SOURCE = ("benchmarks", "bundle", "charstream", "client", "export", "loadtest", "models", "protos", "server", "tests")
# What serving, training and the tests import, beside torch and numpy. All in the versions of constraints.txt.
PACKAGES = (
    *(
        "annotated-types",
        "anyio",
        "click",
        "flatbuffers",
        "googleapis-common-protos",
        "grpcio",
        "grpcio-health-checking",
    ),
    *(
        "grpcio-reflection",
        "grpcio-status",
        "h11",
        "idna",
        "iniconfig",
        "ml_dtypes",
        "onnx",
        "packaging",
        "platformdirs",
    ),
    *("pluggy", "prometheus-client", "protobuf", "pydantic", "pydantic-core", "pygments", "pytest", "pytest-asyncio"),
    *(
        "pytest-timeout",
        "safetensors",
        "shtab",
        "starlette",
        "tqdm",
        "typing-extensions",
        "typing-inspection",
        "uvicorn",
    ),
)
# Libraries of onnxruntime-gpu that Python does not load, or only for TensorRT.
LEFT_OUT = ("libonnxruntime.so*", "libonnxruntime_providers_tensorrt.so")
# One bundle's precisions have the same weights, megabytes apart.
DICTIONARY = 128 << 20
MOST_BYTES = 60_000_000


class PackSettings(Settings):
    """Make an archive for a machine with a GPU."""

    bundle: tuple[Path, ...] = Field(description="bundle to measure, with graphs for CUDA")
    data: Path | None = Field(None, description="text to train on")
    out: Path = Field(Path("cuda.tar.xz"), description="the archive; unpack.sh is put beside it")
    architecture: int = Field(90, description="of the GPU: 90 for H100 and H200")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(PackSettings, argv, command=COMMAND)
    try:
        python = environment()
    except CannotPrepare as reason:
        fail(COMMAND, str(reason), code=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _put_source(folder / "src")
        _put_packages(python, folder, settings.architecture)
        for path in settings.bundle:
            shutil.copytree(path, folder / "bundles" / path.name)
        if settings.data:
            shutil.copy(settings.data, folder / "data.txt")
        _write(folder, settings.out)
    shutil.copy(Path(__file__).with_name("unpack.sh"), settings.out.parent)
    size = settings.out.stat().st_size
    print(f"{settings.out}: {size / 1e6:.1f} MB")
    if size > MOST_BYTES:
        fail(COMMAND, f"{settings.out} has {size:,} bytes, at most {MOST_BYTES:,} are wanted: fewer bundles", code=1)
    return 0


def _put_source(folder: Path) -> None:
    folder.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "HEAD", *SOURCE, "pyproject.toml"], capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def _put_packages(python: Path, folder: Path, architecture: int) -> None:
    """Install what is needed beside torch, and onnxruntime-gpu with a thin library."""
    site, kernels = folder / "site", folder / "kernels"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), *PACKAGES], check=True)
    found = subprocess.run(
        [python, "-c", "import onnxruntime; print(onnxruntime.__file__)"], capture_output=True, text=True, check=True
    )
    installed = Path(found.stdout.split()[-1]).parent
    shutil.copytree(installed, site / "onnxruntime", ignore=shutil.ignore_patterns(*LEFT_OUT, "__pycache__", "tools"))
    for info in installed.parent.glob("onnxruntime_gpu-*.dist-info"):
        shutil.copytree(info, site / info.name)
    load = "from server.runtime.device_runner import require_cuda; require_cuda()"
    subprocess.run(
        [str(python), "-c", load], env=os.environ | variables() | {"FAKE_FATBINS": str(kernels)}, cwd=ROOT, check=True
    )
    library = site / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
    data, kept = thin_library(library, kernels, architecture)
    if not kept:
        fail(COMMAND, f"onnxruntime-gpu has no code for architecture {architecture}", code=1)
    library.write_bytes(data)
    kernels.unlink()


def _write(folder: Path, out: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": DICTIONARY}]
    with lzma.open(out, "wb", filters=filters) as file, tarfile.open(fileobj=file, mode="w|") as archive:
        archive.add(folder, arcname=".")


if __name__ == "__main__":
    sys.exit(main())
