"""A file of weights, read without running any code that it may hold.

torch's own reader of weights does it (`weights_only`), with a list of harmless types that trainers leave beside them:
argparse's Namespace, NumPy's numbers, paths, dates. It refuses classes of a file's own, and knows the pickle protocols
up to 2; such files, and pickles without torch, are read by `HarmlessUnpickler`, which keeps the values and no class.
"""

import collections
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from models.runs.foreign.errors import StateDictError
from models.runs.foreign.other_formats import name_of_format
from models.runs.foreign.unpickler import HARMLESS, HarmlessUnpickler

__all__ = ["Loaded", "load_content"]

_DTYPES = {type(np.dtype(kind)) for kind in ("?", "b", "B", "h", "H", "i", "I", "l", "L", "e", "f", "d", "S", "U")}
_ZIP = b"PK\x03\x04"
_BEFORE_ZIP = 0x1950A86A20F9469CFC6C  # the number that a file of torch's before 1.6 begins with


class Loaded(NamedTuple):
    """What a file holds, and the names of the classes and functions of its own, whose objects are stood in for."""

    content: Any
    origins: tuple[str, ...] = ()


def load_content(file: Path, data: bytes) -> Loaded:
    """Return what a file of weights holds: tensors or NumPy's arrays, and values beside them.

    Raises:
        StateDictError: it is no such file.
    """
    if reason := name_of_format(file, data):
        raise StateDictError(f"{file}: {reason}")
    if file.suffix == ".safetensors":
        try:
            return Loaded(safetensors.torch.load(data))
        except Exception as error:  # the library raises its own kinds
            raise _no_tensors(file) from error
    if data.startswith(_ZIP):
        _require_own_zip(file, data)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_safe_globals()):
            warnings.simplefilter("ignore")  # of protocols that it may not know
            return Loaded(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except Exception:  # a damaged pickle raises anything
        pass
    try:
        return _load_zip(file, data) if data.startswith(_ZIP) else _load_pickles(data)
    except StateDictError:
        raise
    except Exception as error:
        raise _no_tensors(file) from error


def _no_tensors(file: Path) -> StateDictError:
    return StateDictError(f"{file}: not a file of tensors; save them with torch.save(model.state_dict(), FILE)")


def _safe_globals() -> list[Any]:
    named = [(kind, name) for name, kind in HARMLESS.items() if not name.startswith("collections.")]
    return [*named, collections.defaultdict, *_DTYPES]


def _require_own_zip(file: Path, data: bytes) -> None:
    """Refuse a program, and a zip file with packed entries, a few bytes of which may be gigabytes; torch packs none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except Exception:  # it is damaged, as its readers will say
        return
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise StateDictError(
            f"{file}: a TorchScript archive, which holds a program: save the weights alone, "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
        )
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise StateDictError(
                f"{file}: {entry.filename} is compressed, which torch.save does not do; save it again with that"
            )


def _load_zip(file: Path, data: bytes) -> Loaded:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        if all(name.endswith(".npy") for name in names):
            arrays = np.load(io.BytesIO(data), allow_pickle=False)
            return Loaded({name: arrays[name] for name in arrays.files})
        (pickled,) = [name for name in names if name.endswith("/data.pkl")]
        folder = pickled.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in names and archive.read(order) != b"little":
            raise StateDictError(f"{file}: was written on a big-endian machine; save it again on this one")
        reader = _ZipUnpickler(io.BytesIO(archive.read(pickled)), lambda key: archive.read(f"{folder}data/{key}"))
        return Loaded(reader.load(), tuple(reader.origins))


class _ZipUnpickler(HarmlessUnpickler):
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


def _load_pickles(data: bytes) -> Loaded:
    """Return the value of a pickle; of a file of torch's before 1.6 the fourth, after which its numbers lie."""
    stream = io.BytesIO(data)
    reader = HarmlessUnpickler(stream)
    first = reader.load()
    if type(first) is not int or first != _BEFORE_ZIP:
        return Loaded(first, tuple(reader.origins))
    for _ in ("version", "machine"):
        HarmlessUnpickler(stream).load()
    old = _OldUnpickler(stream, len(data))
    content = old.load()
    for key in HarmlessUnpickler(stream).load():
        numbers = old.storages[key]
        stream.read(8)  # how many they are
        numbers.copy_(torch.frombuffer(bytearray(stream.read(numbers.nbytes)), dtype=numbers.dtype))
    return Loaded(content, tuple(old.origins))


class _OldUnpickler(HarmlessUnpickler):
    """Reads the pickle of a file of torch's before 1.6, whose numbers follow.

    Attributes:
        storages: tensors of as many numbers as each storage has, by its key.
    """

    def __init__(self, stream: io.BytesIO, most: int) -> None:
        super().__init__(stream)
        self.storages: dict[str, Tensor] = {}
        self._most = most

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # a class, with its source
            return pid[1]
        kind, dtype, key, _, count, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or count * dtype.itemsize > self._most:
            raise pickle.UnpicklingError("a storage of an unknown kind, or of more numbers than the file has")
        return self.storages.setdefault(key, torch.empty(count, dtype=dtype))
