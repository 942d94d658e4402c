"""CUDA's libraries in this process: what is missing of them, and how threads share the device.

Nothing of this is needed where onnxruntime has no CUDA.
"""

import ctypes
import io
import threading
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

__all__ = ["missing_library", "share_device", "why_unloadable"]

# onnxruntime opens it when the first operator needs it, which may be in the midst of a run.
CUDNN = "libcudnn.so.9"
# cudaStreamCaptureModeThreadLocal: captures of other threads forbid this one nothing.
THREAD_LOCAL = 1

_thread = threading.local()


@cache
def missing_library() -> str | None:
    """Load the libraries that onnxruntime's own for CUDA needs; return why that cannot be, or None.

    NVIDIA's Python packages put them where the system does not look, and onnxruntime leaves it to its callers to load
    them from there.
    """
    import onnxruntime

    # It prints what it does not find, of which not everything is needed.
    with redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
    return why_unloadable(Path(onnxruntime.__file__).parent / "capi")


def why_unloadable(folder: Path) -> str | None:
    """Return why onnxruntime's library for CUDA in `folder` cannot be loaded, with the missing library's name, or None.

    The system names the first library that is not there.
    """
    shared, cuda = (str(folder / f"libonnxruntime_providers_{name}.so") for name in ("shared", "cuda"))
    try:
        ctypes.CDLL(CUDNN)
        ctypes.CDLL(shared, ctypes.RTLD_GLOBAL)
        ctypes.CDLL(cuda)
    except OSError as error:
        return " ".join(str(error).split())
    return None


def share_device() -> None:
    """Let this thread use the device while another one captures, which it must not by CUDA's default.

    onnxruntime captures in a mode in which memory that any other thread takes, copies or frees breaks the capture,
    unless that thread has said that captures are none of its business. To be called before everything that touches
    CUDA: in each thread the first call counts.
    """
    if getattr(_thread, "is_sharing", False):
        return
    wanted = ctypes.c_int(THREAD_LOCAL)
    _runtime().cudaThreadExchangeStreamCaptureMode(ctypes.byref(wanted))
    _thread.is_sharing = True


@cache
def _runtime() -> ctypes.CDLL:
    """Return the CUDA runtime that onnxruntime has loaded."""
    import onnxruntime

    return ctypes.CDLL(f"libcudart.so.{onnxruntime.cuda_version.split('.')[0]}")
