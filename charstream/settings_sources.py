"""The sources of settings beside the command line: variables and a TOML file, and how to write such a file.

A file has a key for each field, with underscores or dashes, and values of TOML's types; an array for a tuple:

    models = "bundles"
    max-rows = 64
"""

import json
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

__all__ = [
    "FileError",
    "Source",
    "from_environment",
    "from_file",
    "is_tuple",
    "nearest",
    "reason_of",
    "to_toml",
    "without_none",
]

# These flags choose and print a configuration, and are no part of it.
NOT_IN_FILES = {"config", "print_config"}


class FileError(ValueError):
    """A file cannot be read, or has a wrong key or value: one line that names the file."""


@dataclass(frozen=True)
class Source:
    """Some of the settings' values by field.

    Args:
        where: returns the name of a field in errors.
        mark: returns the origin of its value for `--print-config`.
    """

    values: Mapping[str, Any]
    where: Callable[[str], str]
    mark: Callable[[str], str]


def from_environment(cls: type[BaseModel], prefix: str, environ: Mapping[str, str]) -> Source:
    """Read the variables `PREFIX_FIELD`; a tuple's values have commas between them."""
    found: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        value = environ.get(prefix + name.upper())
        if value is not None:
            found[name] = value.split(",") if is_tuple(field) else value
    return Source(found, where=lambda name: prefix + name.upper(), mark=lambda name: prefix + name.upper())


def from_file(cls: type[BaseModel], path: Path) -> Source:
    """Read the TOML file at `path`. Raises FileError."""
    fields = {name.rstrip("_"): name for name in cls.model_fields if name not in NOT_IN_FILES}
    found: dict[str, Any] = {}
    for key, value in _read_toml(path).items():
        name = fields.get(key.replace("-", "_"))
        if name is None:
            raise FileError(f"{path}: {key!r} is no setting{nearest(key.replace('-', '_'), fields)}")
        if name in found:
            raise FileError(f"{path}: {key}: stands there twice, with underscores and with dashes")
        found[name] = value
    _check_types(cls, found, path)
    return Source(found, where=lambda name: f"{path}: {name.rstrip('_')}", mark=lambda name: f"file {_escape(path)}")


def nearest(word: str, names: Iterable[str]) -> str:
    """Return "; the nearest is NAME" for a mistyped word, or "" if it neither begins nor resembles a name."""
    names = list(names)
    near = [name for name in names if name.startswith(word)] or get_close_matches(word, names, n=1)
    return f"; the nearest is {near[0]}" if near else ""


def reason_of(error: Mapping[str, Any]) -> str:
    """Return the reason of a pydantic error, as the end of a line."""
    reason = error["msg"].removeprefix("Value error, ")
    return f"{reason[0].lower()}{reason[1:]} (got {error['input']!r})"


def to_toml(value: Any) -> str:
    """Return a setting's value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(to_toml, value))}]"
    return f'"{_escape(value)}"'


def is_tuple(field: FieldInfo) -> bool:
    return get_origin(without_none(field.annotation)) is tuple


def without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(kind for kind in get_args(annotation) if kind is not type(None))
    return annotation


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        text = data.decode()
        return tomllib.loads(text)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(f"{path}: is not UTF-8 (at line {line})") from None
    except tomllib.TOMLDecodeError as error:
        last = text.count("\n") + 1
        raise FileError(f"{path}: {str(error).replace('at end of document', f'at line {last}, the last')}") from None
    except (ValueError, RecursionError):
        raise FileError(f"{path}: has a number that is too long, or arrays that are too deep") from None


def _check_types(cls: type[BaseModel], values: Mapping[str, Any], path: Path) -> None:
    """Check the types of a file's values: only those of variables and flags, which are texts, are converted."""
    for name, value in values.items():
        if isinstance(value, str) and "\0" in value:
            raise FileError(f"{path}: {name}: must not have the character NUL")
    try:
        # JSON's strict types are TOML's.
        cls.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        for wrong in error.errors():
            if wrong["loc"] and wrong["loc"][0] in values:
                raise FileError(f"{path}: {_place(wrong['loc'])}: {reason_of(wrong)}") from None
    except ValueError:
        raise FileError(f"{path}: has a number that is too long") from None


def _place(loc: tuple[int | str, ...]) -> str:
    name, *rest = map(str, loc)
    return name.rstrip("_") + "".join(f"[{part}]" for part in rest)


def _escape(value: Any) -> str:
    """Return the value as it stands between the quotes of a TOML string; what UTF-8 cannot carry is only shown."""
    text = json.dumps(str(value), ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")
    return text.encode(errors="backslashreplace").decode()
