"""One declaration for a command's configuration: a frozen, validated class gives the command line and the environment.

    class ServerSettings(Settings):
        port: int = Field(50051, ge=0, le=65535, description="TCP port; 0 takes any free one")

    settings = parse(ServerSettings, argv, command="charstream serve", environment="CHARSTREAM_")

A field is the flag `--its-name`; a tuple may be given several times; a bool is `--name`, or `--no-name` where it is
on by default; a field annotated with `Positional()` has no flag, and as a tuple takes one or more. Flags override the
environment (`CHARSTREAM_PORT`), which overrides defaults. A wrong value ends the process with one line on stderr and
exit code 2.
"""

import argparse
import os
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

__all__ = ["Positional", "Settings", "fail", "parse"]


@dataclass(frozen=True)
class Positional:
    """Marks a field that is given by place: `prompt: Annotated[str, Positional()]`."""


class Settings(BaseModel):
    """The base of every configuration: values are checked when it is built, and stay."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


S = TypeVar("S", bound=Settings)


def parse(cls: type[S], argv: Sequence[str] | None, *, command: str, environment: str | None = None) -> S:
    """Builds `cls` from flags and, where a prefix is given, from the environment.

    Raises:
        SystemExit: 0 after `--help`; 2 after one line that names the wrong flag or variable, what came and why not.
    """
    given = vars(_read(_parser(cls, command, environment), sys.argv[1:] if argv is None else argv))
    variables = _from_environment(cls, environment, os.environ)
    try:
        return cls(**{**variables, **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        from_variable = name in variables and name not in given
        source = f"{environment}{name.upper()}" if from_variable else _flag(cls, name)
        reason = first["msg"].removeprefix("Value error, ")
        fail(command, f"{source}: {reason[0].lower()}{reason[1:]} (got {first['input']!r})" if name else reason)


def fail(command: str, reason: str, code: int = 2) -> NoReturn:
    """Ends the process with one line on stderr: 2 for what the caller can correct, 1 for what failed."""
    print(f"{command}: {reason}", file=sys.stderr)
    raise SystemExit(code)


def _parser(cls: type[Settings], command: str, environment: str | None) -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog=command, description=cls.__doc__, argument_default=argparse.SUPPRESS, allow_abbrev=False
    )
    if environment:
        parser.epilog = f"Every flag can be given as a variable: --some-flag as {environment}SOME_FLAG."
    for name, field in cls.model_fields.items():
        _add(parser, name, field)
    return parser


def _read(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Flags may stand between what is given by place, which argparse can do; but then it does not know "--"."""
    return parser.parse_args(argv) if "--" in argv else parser.parse_intermixed_args(argv)


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(self.prog, f"{message}; see {self.prog} --help")


def _add(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    kind = _without_none(field.annotation)
    options: dict[str, Any] = {"help": _help(field)}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
    elif _is_positional(field):
        options |= {"metavar": name.upper(), "nargs": _nargs(field)}
    elif _is_tuple(field):
        options |= {"action": "append", "metavar": _metavar(get_args(kind)[0])}
    else:
        options["metavar"] = _metavar(kind)
    if _is_positional(field):
        parser.add_argument(name, **options)
    else:
        # Whether a required flag is missing is the class's to say: the environment may have it.
        parser.add_argument(_flag_of(name), dest=name, **options)


def _nargs(field: FieldInfo) -> str | None:
    if _is_tuple(field):
        return "+"
    return None if field.is_required() else "?"


def _help(field: FieldInfo) -> str:
    text = (field.description or "").replace("%", "%%")
    if field.is_required():
        return text if _is_positional(field) else f"{text} (required)"
    default = field.get_default(call_default_factory=True)
    if default in (None, (), "") or isinstance(default, bool):
        return text
    shown = ", ".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text} (default: {shown})".replace("\n", "\\n")


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(kind) is Annotated:
        return _metavar(get_args(kind)[0])
    return {"str": "TEXT", "int": "N", "float": "X", "Path": "PATH"}.get(getattr(kind, "__name__", ""), "VALUE")


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(kind for kind in get_args(annotation) if kind is not type(None))
    return annotation


def _is_tuple(field: FieldInfo) -> bool:
    return get_origin(_without_none(field.annotation)) is tuple


def _is_positional(field: FieldInfo) -> bool:
    return any(isinstance(mark, Positional) for mark in field.metadata)


def _flag(cls: type[Settings], name: str) -> str:
    if not name:
        return ""
    return name.upper() if _is_positional(cls.model_fields[name]) else _flag_of(name)


def _flag_of(name: str) -> str:
    """A trailing underscore only keeps a field from shadowing a name: `json_` is --json."""
    return "--" + name.rstrip("_").replace("_", "-")


def _from_environment(cls: type[Settings], prefix: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    if prefix is None:
        return {}
    found: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        value = environ.get(prefix + name.upper())
        if value is not None:
            found[name] = value.split(",") if _is_tuple(field) else value
    return found
