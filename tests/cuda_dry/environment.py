"""An environment with onnxruntime-gpu and fake libraries in the place of NVIDIA's, made as users make theirs."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "FOLDER",
    "LIBRARIES",
    "ROOT",
    "CannotPrepare",
    "digest",
    "environment",
    "fake_libraries",
    "make_once",
    "variables",
]

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "fake"
FOLDER = ROOT / ".cuda-dry"
VENV, LIBRARIES, WHEELS = FOLDER / "venv", FOLDER / "fake", FOLDER / "wheels"
# NVIDIA's packages that charstream[gpu] asks for, and which of the fake libraries stand for each.
PACKAGES = {
    "nvidia-cublas": ("cu13/lib/libcublas.so.13", "cu13/lib/libcublasLt.so.13"),
    "nvidia-cuda-nvrtc": ("cu13/lib/libnvrtc.so.13",),
    "nvidia-cuda-runtime": ("cu13/lib/libcudart.so.13", "cu13/lib/libfakecuda.so"),
    "nvidia-cudnn-cu13": ("cudnn/lib/libcudnn.so.9",),
    "nvidia-cufft": ("cu13/lib/libcufft.so.12",),
    "nvidia-curand": ("cu13/lib/libcurand.so.10",),
}
MAJORS = {"nvidia-cudnn-cu13": "9.99", "nvidia-cufft": "12.99", "nvidia-curand": "10.99"}
LOCKS = ("pyproject.toml", "constraints.txt")
HEADERS = ("nvidia-cuda-runtime>=13,<14", "nvidia-cuda-crt>=13,<14")


class CannotPrepare(Exception):
    """The environment cannot be made here; the message says why."""


def environment() -> Path:
    """Return the path of its Python; make it if it is not there, or was made for something else.

    Raises:
        CannotPrepare: with the reason.
    """
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise CannotPrepare(f"onnxruntime-gpu is for x86-64 Linux, and this is {sys.platform} {os.uname().machine}")
    python = VENV / "bin" / "python"
    make_once(VENV, digest(*FAKE.iterdir(), Path(__file__), *map(ROOT.joinpath, LOCKS)), _make_environment)
    # The code changes more often than what it needs.
    _pip("install", "--quiet", "--no-deps", "--no-build-isolation", "--force-reinstall", str(ROOT))
    return python


def variables() -> dict[str, str]:
    """Return the environment variables of a process there: the driver is the system's, not a package's."""
    return os.environ | {"LD_LIBRARY_PATH": str(LIBRARIES / "driver"), "PYTHONPATH": "", "CHARSTREAM_ENGINES": "0"}


def fake_libraries() -> Path:
    """Return the folder with the fake libraries; build them if they are not there, or of other sources.

    Raises:
        CannotPrepare: with the reason.
    """
    make_once(LIBRARIES, digest(*FAKE.iterdir()), _build_fakes)
    return LIBRARIES


def make_once(folder: Path, wanted: str, make: Callable[[], None]) -> None:
    """Make a folder anew, unless it was made for what is wanted."""
    made_for = folder.with_name(f"{folder.name}.made-for")
    if not made_for.exists() or made_for.read_text() != wanted:
        made_for.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        make()
        made_for.write_text(wanted)


def digest(*files: Path) -> str:
    """Return a digest of what the files hold."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()


def _build_fakes() -> None:
    if not shutil.which("g++"):
        raise CannotPrepare("there is no g++, which builds the fake CUDA")
    _run("the fake CUDA is not built", "bash", str(FAKE / "build.sh"), str(LIBRARIES), str(_headers()))


def _make_environment() -> None:
    fake_libraries()
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir()
    for name, files in PACKAGES.items():
        _write_wheel(name, files)
    _run("no environment can be made", sys.executable, "-m", "venv", str(VENV))
    constraints = FOLDER / "constraints.txt"
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints.write_text("\n".join(line for line in lines if not line.startswith("nvidia-")) + "\n")
    print("cuda-dry: pip install .[gpu], with onnxruntime-gpu's 256 MB", flush=True)
    # Versions that nobody else has: pip takes the newest, and finds it here.
    _pip("install", "--quiet", "-c", str(constraints), "--find-links", str(WHEELS), f"{ROOT}[gpu]", "hatchling")


def _headers() -> Path:
    """Return the folder of CUDA's headers: the system's, or NVIDIA's packages."""
    for folder in (Path("/usr/local/cuda/include"), FOLDER / "headers" / "nvidia" / "cu13" / "include"):
        if (folder / "cuda_runtime_api.h").exists():
            return folder
    _run(
        "CUDA's headers cannot be had",
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(FOLDER / "headers"), *HEADERS),
    )
    for wheel in (FOLDER / "headers").glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(FOLDER / "headers")
    return next((FOLDER / "headers").rglob("cuda_runtime_api.h")).parent


def _write_wheel(name: str, files: tuple[str, ...]) -> None:
    """Write a wheel that puts fake libraries where NVIDIA's puts the real ones."""
    package, version = name.replace("-", "_"), f"{MAJORS.get(name, '13.999')}.999"
    info = f"{package}-{version}.dist-info"
    with zipfile.ZipFile(WHEELS / f"{package}-{version}-py3-none-any.whl", "w") as wheel:
        record = [f"{info}/METADATA,,", f"{info}/WHEEL,,", f"{info}/RECORD,,"]
        for file in files:
            wheel.write(LIBRARIES / file, f"nvidia/{file}")
            record.append(f"nvidia/{file},,")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "\n".join(record) + "\n")


def _pip(*arguments: str) -> None:
    _run("onnxruntime-gpu or what serving needs cannot be had", str(VENV / "bin" / "python"), "-m", "pip", *arguments)


def _run(failure: str, *command: str) -> None:
    """Raise CannotPrepare, with the last line of what the command said, if it fails."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        raise CannotPrepare(f"{failure}: {' '.join(lines[-1].split()) if lines else result.returncode}")
