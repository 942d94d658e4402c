"""A file of weights, read without running any code that it may hold.

torch's own reader of weights does it (`weights_only`), with a list of harmless types that trainers leave beside them:
argparse's Namespace, NumPy's numbers, paths, dates. It knows the pickle protocols up to 2; files of later ones are read
by `_HarmlessUnpickler`, which knows the same types and no others.
"""

import argparse
import collections
import datetime
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from models.runs.foreign.errors import StateDictError

__all__ = ["load_content", "load_harmless_pickle"]

_NUMBERS = "biufcSU"  # kinds of NumPy's types that hold no Python objects
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _numpy_number(dtype: "np.dtype[Any]", data: bytes | str = b"") -> Any:
    """Return a number of NumPy as Python's. Pickles of protocol 2 may hold the bytes as text."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in _NUMBERS:
        raise pickle.UnpicklingError("a number of NumPy that is an object")
    raw = data.encode("latin-1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype, 1)[0].item()


class _Path(str):
    """Stands for a path of any system."""

    __slots__ = ()

    def __new__(cls, *parts: str) -> "_Path":
        return super().__new__(cls, "/".join(map(str, parts)))


class _Namespace(argparse.Namespace):
    """Stands for argparse's and types' own, which a file must not be able to change."""


# By the names that pickles have for them. None of them does anything but keep values.
_HARMLESS: dict[str, Callable[..., Any]] = {
    "argparse.Namespace": _Namespace,
    "types.SimpleNamespace": _Namespace,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    "collections.Counter": collections.Counter,
    "datetime.datetime": datetime.datetime,
    "datetime.date": datetime.date,
    "datetime.timedelta": datetime.timedelta,
    "torch.device": torch.device,
    "torch.Size": torch.Size,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray.scalar": _numpy_number,
    "numpy._core.multiarray.scalar": _numpy_number,
    **{f"pathlib.{name}": _Path for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")},
    **{f"builtins.{kind.__name__}": kind for kind in (int, float, bool, str, list, dict, set, frozenset, complex)},
}
# What pickle calls them in protocol 2.
_HARMLESS |= {
    f"__builtin__.{name.partition('.')[2]}": _HARMLESS[name] for name in list(_HARMLESS) if "builtins" in name
}
_DTYPES = {type(np.dtype(kind)) for kind in ("?", "b", "B", "h", "H", "i", "I", "l", "L", "e", "f", "d", "S", "U")}
_WITH_STATE = (_Namespace, collections.OrderedDict, collections.defaultdict, collections.Counter, np.dtype)
_ZIP = b"PK\x03\x04"


def load_content(file: Path, data: bytes) -> Any:
    """Return what a file of weights holds: tensors, and harmless values beside them.

    Raises:
        StateDictError: it is no such file, or holds what only its own code can read.
    """
    if file.suffix == ".safetensors":
        try:
            return safetensors.torch.load(data)
        except Exception as error:  # the library raises its own kinds
            raise _no_tensors(file) from error
    if data.startswith(_ZIP):
        _require_stored(file, data)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_safe_globals()):
            warnings.simplefilter("ignore")  # of protocols that it may not know
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything
        obstacle = _obstacle(str(error))
    if data.startswith(_ZIP):
        try:
            return _load_zip(file, data)
        except _NotHarmless as error:
            raise _refusal(file, str(error)) from error
        except StateDictError:
            raise
        except Exception as error:
            raise _no_tensors(file) from error
    raise _refusal(file, obstacle) if obstacle else _no_tensors(file)


def load_harmless_pickle(file: Path, data: bytes) -> Any:
    """Return the value of a plain pickle, such as nanoGPT's meta.pkl, without running any code that it may hold.

    Raises:
        StateDictError: it is damaged, or holds what only its own code can read.
    """
    try:
        return _HarmlessUnpickler(io.BytesIO(data)).load()
    except _NotHarmless as error:
        raise StateDictError(
            f"{file}: holds {error}, which only its own code can read: give the characters as JSON"
        ) from error
    except Exception as error:
        raise StateDictError(f"{file}: a damaged pickle ({error})") from error


def _no_tensors(file: Path) -> StateDictError:
    return StateDictError(f"{file}: not a file of tensors; save them with torch.save(model.state_dict(), FILE)")


def _refusal(file: Path, name: str) -> StateDictError:
    load = f"content = torch.load({str(file)!r}, map_location='cpu', weights_only=False)"
    save = "torch.save(content.state_dict(), 'weights.pt')"
    return StateDictError(
        f"{file}: holds {name}, which only its own code can read, and code of files is not run here; where you trust "
        f"the file, two lines of Python beside that code extract the weights: {load}; {save} (or content['model'] "
        "instead of content.state_dict(), if it is a dictionary)"
    )


def _obstacle(message: str) -> str:
    """Return the name of what torch's reader refused, as far as it says so."""
    found = re.search(r"(?:Unsupported (?:global: GLOBAL|class)|GLOBAL) ([\w.]+)", message)
    return found[1] if found else ""


def _safe_globals() -> list[Any]:
    named = [(kind, name) for name, kind in _HARMLESS.items() if not name.startswith("collections.")]
    return [*named, collections.defaultdict, *_DTYPES]


class _NotHarmless(pickle.UnpicklingError):
    """A pickle names what is not on the list; the message is that name."""


class _HarmlessUnpickler(pickle._Unpickler):
    """Reads a pickle of any protocol, which may name nothing but the harmless types and torch's tensors.

    It is pickle's reader in Python, whose step that gives an object its state can be guarded.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        """Give an object its state. A class or a function would keep it for the whole process."""
        owner = self.stack[-2]  # type: ignore[attr-defined]
        if not isinstance(owner, _WITH_STATE):
            raise pickle.UnpicklingError(f"a state for a {type(owner).__name__}")
        pickle._Unpickler.dispatch[pickle.BUILD[0]](self)  # type: ignore[arg-type]

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full == "torch._utils._rebuild_tensor_v2":
            return _tensor
        if full == "torch._utils._rebuild_parameter":
            return _parameter
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if full == "_codecs.encode":
            return _latin_bytes
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if full not in _HARMLESS:
            raise _NotHarmless(full)
        return _HARMLESS[full]


class _ZipUnpickler(_HarmlessUnpickler):
    """Reads the pickle of torch's zip file, whose numbers lie in files beside it."""

    def __init__(self, stream: io.BytesIO, read: Callable[[str], bytes]) -> None:
        super().__init__(stream)
        self._read = read

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        data = self._read(str(key))
        return torch.frombuffer(bytearray(data), dtype=dtype)[:count] if data else torch.empty(0, dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """Return a tensor of some numbers of a storage, whose bounds torch checks."""
    return storage.as_strided(size, stride, offset)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _latin_bytes(text: str, _: str) -> bytes:
    """Return bytes as protocol 2 writes them."""
    return text.encode("latin-1")


def _require_stored(file: Path, data: bytes) -> None:
    """Refuse a zip file with packed entries, a few bytes of which may be gigabytes; torch packs none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except Exception:  # it is damaged, as its readers will say
        return
    if packed:
        raise StateDictError(
            f"{file}: {packed[0]} is compressed, which torch.save does not do; save it again with that"
        )


def _load_zip(file: Path, data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        (pickled,) = [name for name in names if name.endswith("/data.pkl")]
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}constants.pkl" in names:
            raise StateDictError(
                f"{file}: a TorchScript archive, which holds a program: save the weights alone, "
                "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
            )
        order = f"{folder}byteorder"
        if order in names and archive.read(order) != b"little":
            raise StateDictError(f"{file}: was written on a big-endian machine; save it again on this one")
        stream = io.BytesIO(archive.read(pickled))
        return _ZipUnpickler(stream, lambda key: archive.read(f"{folder}data/{key}")).load()
