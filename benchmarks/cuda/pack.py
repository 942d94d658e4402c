"""Make one archive with all that `python -m benchmarks.cuda --short` needs where there is a GPU and no package index:

    python -m benchmarks.cuda.pack [--bundle FOLDER] [--data FILE] [--python 3.12] --out cuda.tar.xz

It holds this source as it is committed, bundles, a text to train on, and what serving, training and tests import beside
torch: onnxruntime-gpu among them, with the machine code of one architecture (thin_library.py), since all of it would be
256 MB. There, `unpack.sh cuda.tar.xz FOLDER` unpacks and measures; it needs torch for CUDA 13 with what that brings.

With `--provider cpu` it is a rehearsal, with this Python and the packages that it has. Exit code 0, or 1 if something
cannot be had or the archive would be too large.
"""

import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from benchmarks.cuda.thin_library import thin_library
from benchmarks.support.servers import untrained_bundle
from charstream.settings import Settings, fail, parse
from models.data.corpus import open_corpus
from models.data.text_files import CorpusError
from tests.cuda_dry.environment import CannotPrepare, environment, variables

COMMAND = "python -m benchmarks.cuda.pack"
ROOT = Path(__file__).parents[2]
# Beside what serving needs: for training and its export, and for the tests that need a GPU.
BESIDE_SERVING = (
    "onnxruntime-gpu>=1.31",
    *("onnx", "onnxscript", "platformdirs", "safetensors", "tqdm"),
    *("pytest", "pytest-asyncio", "pytest-timeout"),
)
# What of them nobody imports there.
LEFT_OUT = (
    *("onnxruntime/capi/libonnxruntime.so*", "onnxruntime/capi/libonnxruntime_providers_tensorrt.so"),
    *("onnxruntime/transformers", "onnxruntime/quantization", "onnx/backend/test", "bin", "numpy/*/tests"),
    *("pretrained", "sympy", "mpmath"),  # torch brings the last two
)
# pip matches a wheel's least version of the system's C library exactly, so each is named.
PLATFORMS = ("manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 29)))
# Most of it is machine code for x86; a bundle's precisions have the same weights, megabytes apart.
FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 128 << 20}]
NOT_THERE = (":!docs", ":!pretrained")
MOST_BYTES = 60_000_000


class PackSettings(Settings):
    """Make an archive for a machine with a GPU and without a package index."""

    bundle: tuple[Path, ...] = Field((), description="bundle to measure (default: an untrained LSTM 2x512, exported)")
    data: str = Field("tinyshakespeare", description="text to train on: a name or a file")
    out: Path = Field(Path("cuda.tar.xz"), description="the archive; unpack.sh is put beside it")
    python: str = Field("3.12", pattern=r"^3\.\d+$", description="version of the Python there")
    architecture: int = Field(90, description="of the GPU there: 90 for H100 and H200")
    provider: Literal["cuda", "cpu"] = Field("cuda", description="cpu: a rehearsal, without packages")


class CannotPack(Exception):
    """Something cannot be had; the message says what."""


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(PackSettings, argv, command=COMMAND)
    if not settings.out.parent.is_dir():
        fail(COMMAND, f"--out {settings.out}: there is no folder {settings.out.parent}")
    with tempfile.TemporaryDirectory() as name:
        try:
            gather(settings, Path(name))
        except (CannotPack, CannotPrepare, CorpusError) as reason:
            fail(COMMAND, str(reason), code=1)
        write_archive(Path(name), settings.out)
    shutil.copy(Path(__file__).with_name("unpack.sh"), settings.out.parent)
    size = settings.out.stat().st_size
    print(f"{settings.out}: {size / 1e6:.1f} MB")
    if size > MOST_BYTES:
        fail(COMMAND, f"{settings.out} has {size:,} bytes, expected at most {MOST_BYTES:,}: pack fewer bundles", code=1)
    return 0


def write_archive(folder: Path, out: Path) -> None:
    """Write the archive of what a folder holds; until all of it is written it has another name."""
    part = out.with_name(f"{out.name}.part")
    try:
        with lzma.open(part, "wb", filters=FILTERS) as file, tarfile.open(fileobj=file, mode="w|") as archive:
            archive.add(folder, arcname=".")
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def gather(settings: PackSettings, folder: Path) -> None:
    """Put into the folder what the archive holds. Raises CannotPack, CannotPrepare, CorpusError."""
    put_source(folder / "src")
    shutil.copy(open_corpus(settings.data).path, folder / "data.txt")
    for path in settings.bundle:
        shutil.copytree(path, folder / "bundles" / path.name)
    if not settings.bundle:
        untrained_bundle(folder / "bundles" / "lstm-2x512", precisions=("fp32", "fp32-cuda", "fp16-cuda"))
    (folder / "site").mkdir()
    if settings.provider == "cuda":
        put_packages(folder / "site", settings.python)
        make_thin(folder / "site" / "onnxruntime" / "capi", settings.architecture)


def put_source(folder: Path) -> None:
    """Put this source there, as it is committed."""
    folder.mkdir()
    archive = run("git does not give this source", "git", "-C", str(ROOT), "archive", "HEAD", "--", ".", *NOT_THERE)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)


def put_packages(site: Path, python: str) -> None:
    """Install charstream there, and what it needs beside torch, for another version of Python."""
    serving = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(site))
    there = ("--python-version", python, *(flag for name in PLATFORMS for flag in ("--platform", name)))
    wanted = ("--only-binary=:all:", "-c", str(ROOT / "constraints.txt"), *serving, *BESIDE_SERVING)
    print("onnxruntime-gpu's 256 MB, and other packages", flush=True)
    run("the packages cannot be had", *pip, *there, *wanted)
    run("charstream cannot be installed", *pip, "--no-deps", str(ROOT))  # its version is asked for
    for pattern in LEFT_OUT:
        for path in site.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def make_thin(capi: Path, architecture: int) -> None:
    """Leave onnxruntime's library for CUDA the machine code of one architecture."""
    library = capi / "libonnxruntime_providers_cuda.so"
    # Loaded over the fake CUDA it tells where its kernels lie; it wants an onnxruntime in its process.
    load = "import sys, pathlib, onnxruntime, server.runtime.cuda as cuda; onnxruntime.preload_dlls(); "
    load += "sys.exit(cuda.why_unloadable(pathlib.Path(sys.argv[1])))"
    with tempfile.TemporaryDirectory() as name:
        kernels = Path(name, "kernels")
        python, told = str(environment()), variables() | {"FAKE_FATBINS": str(kernels)}
        run("onnxruntime's library for CUDA does not load", python, "-c", load, str(capi), env=told)
        data, kept = thin_library(library, kernels, architecture)
    if not kept:
        raise CannotPack(f"onnxruntime-gpu has no machine code for architecture {architecture}")
    library.write_bytes(data)


def run(failure: str, *command: str, env: dict[str, str] | None = None) -> bytes:
    """Return what the command writes. Raises CannotPack with the last line of its errors."""
    result = subprocess.run(command, capture_output=True, env=env)
    if result.returncode:
        lines = result.stderr.decode(errors="replace").split("\n")
        raise CannotPack(f"{failure}: {next((line for line in reversed(lines) if line.strip()), result.returncode)}")
    return result.stdout


if __name__ == "__main__":
    sys.exit(main())
