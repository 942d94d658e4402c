"""A reader of pickles that runs nothing of theirs: harmless values are kept, all else is only stood in for."""

import argparse
import collections
import datetime
import io
import pickle
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from models.runs.foreign.errors import StateDictError

__all__ = ["HARMLESS", "HarmlessUnpickler", "StandIn", "load_harmless_pickle"]

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
    raw = data.encode("latin-1") if isinstance(data, str) else data
    return np.frombuffer(raw, _of_numbers(dtype), 1)[0].item()


def _empty_array(*_: Any) -> "np.ndarray[Any, Any]":
    """Return the array that gets its shape and numbers as its state."""
    return np.empty(0)


def _array(data: Any, dtype: "np.dtype[Any]", shape: tuple[int, ...], order: str) -> "np.ndarray[Any, Any]":
    """Return an array as pickles of protocol 5 hold it."""
    return np.frombuffer(data, _of_numbers(dtype)).reshape(shape, order="F" if order == "F" else "C")


def _of_numbers(dtype: Any) -> "np.dtype[Any]":
    if not isinstance(dtype, np.dtype) or dtype.kind not in _NUMBERS:
        raise pickle.UnpicklingError("numbers of NumPy that are objects")
    return dtype


class _Path(str):
    """Stands for a path of any system."""

    __slots__ = ()

    def __new__(cls, *parts: str) -> "_Path":
        return super().__new__(cls, "/".join(map(str, parts)))


class _Namespace(argparse.Namespace):
    """Stands for argparse's and types' own, which a file must not be able to change."""


class StandIn(argparse.Namespace):
    """Stands for an object of a class that only the file's own code has: it keeps values, and computes nothing."""

    def __init__(self, *arguments: Any, **_: Any) -> None:
        super().__init__(**{"arguments": arguments} if arguments else {})

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __setitem__(self, key: Any, value: Any) -> None:
        vars(self).setdefault("entries", {})[key] = value

    def extend(self, elements: Iterable[Any]) -> None:
        vars(self).setdefault("elements", []).extend(elements)

    def append(self, element: Any) -> None:
        self.extend([element])

    def keep(self, state: Any) -> None:
        """Keep a state: attributes, or a pair of them of which the second ones have slots."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                vars(self).update({str(name): value for name, value in part.items()})


# By the names that pickles have for them. None of them does anything but keep values.
HARMLESS: dict[str, Callable[..., Any]] = {
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
HARMLESS |= {f"__builtin__.{name.partition('.')[2]}": HARMLESS[name] for name in list(HARMLESS) if "builtins" in name}
_WITH_STATE = (
    _Namespace,
    collections.OrderedDict,
    collections.defaultdict,
    collections.Counter,
    np.dtype,
    np.ndarray,
    StandIn,
)


class HarmlessUnpickler(pickle._Unpickler):
    """Reads a pickle of any protocol, of which it makes harmless types, tensors and stand-ins, and nothing else.

    It is pickle's reader in Python, whose step that gives an object its state can be guarded.

    Attributes:
        origins: the names of what was stood in for.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin-1")
        self.origins: dict[str, type[StandIn]] = {}

    def load_build(self) -> None:
        """Give an object its state. A class or a function would keep it for the whole process."""
        state, owner = self.stack[-1], self.stack[-2]  # type: ignore[attr-defined]
        if not isinstance(owner, _WITH_STATE):
            raise pickle.UnpicklingError(f"a state for a {type(owner).__name__}")
        if isinstance(owner, np.ndarray):
            _of_numbers(state[2])
        if isinstance(owner, StandIn):
            owner.keep(self.stack.pop())  # type: ignore[attr-defined]
        else:
            pickle._Unpickler.dispatch[pickle.BUILD[0]](self)  # type: ignore[arg-type]

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if known := _OF_TENSORS.get(full) or HARMLESS.get(full):
            return known
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return self.origins.setdefault(full, type("StandIn", (StandIn,), {}))


def load_harmless_pickle(file: Path, data: bytes) -> Any:
    """Return the value of a plain pickle, such as nanoGPT's meta.pkl, without running any code that it may hold.

    Raises:
        StateDictError: it is damaged.
    """
    try:
        return HarmlessUnpickler(io.BytesIO(data)).load()
    except Exception as error:
        raise StateDictError(f"{file}: a damaged pickle ({error})") from error


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """Return a tensor of some numbers of a storage, whose bounds torch checks."""
    return storage.as_strided(size, stride, offset)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _of_a_subclass(make: Callable[..., Any], _: Any, arguments: tuple[Any, ...], *__: Any) -> Any:
    """Return a tensor of a subclass of torch's as torch's own; `make` is one of the functions here."""
    return make(*arguments)


def _storage(data: bytes) -> Tensor:
    """Return the numbers of a tensor that was pickled without torch.save."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class that torch's pickles still have
        storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return torch.empty(0, dtype=storage.dtype).set_(storage.untyped())


def _latin_bytes(text: str, _: str) -> bytes:
    """Return bytes as protocol 2 writes them."""
    return text.encode("latin-1")


def _object(kind: Callable[[], Any], *_: Any) -> Any:
    """Return an object as protocols 0 and 1 write it."""
    return kind()


_OF_TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_a_subclass,
    "torch.storage._load_from_bytes": _storage,
    "torch.torch_version.TorchVersion": str,
    "numpy.ndarray": _empty_array,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy._core.multiarray._reconstruct": _empty_array,
    "numpy.core.numeric._frombuffer": _array,
    "numpy._core.numeric._frombuffer": _array,
    "_codecs.encode": _latin_bytes,
    "copy_reg._reconstructor": _object,
    "copyreg._reconstructor": _object,
}
