"""One declaration for a command's configuration: a frozen, validated class gives the command line and the environment.

    class ServerSettings(Settings):
        port: int = Field(50051, ge=0, le=65535, description="TCP port; 0 takes any free one")

    settings = parse(ServerSettings, argv, command="charstream serve", environment="CHARSTREAM_")

A field is the flag `--its-name`; a tuple may be given several times; a bool is `--name`, or `--no-name` where it is
on by default, and both where it is annotated with `Negatable()`; a field annotated with `Positional()` has no flag, and
as a tuple takes one or more. Flags override the environment (`CHARSTREAM_PORT`), which overrides the file, which
overrides the defaults. A wrong value ends the process with one line on stderr and exit code 2.

A class with a field `config: Path | None` takes a TOML file by that flag (charstream/settings_sources.py); one with a
field `print_config: bool` prints the resulting settings by that flag, as such a file.
"""

import argparse
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from charstream.settings_sources import (
    FileError,
    Source,
    from_environment,
    from_file,
    is_tuple,
    nearest,
    reason_of,
    to_toml,
    without_none,
)

__all__ = ["Negatable", "Positional", "Settings", "fail", "parse", "parser_of"]


@dataclass(frozen=True)
class Positional:
    """Marks a field that is given by place: `prompt: Annotated[str, Positional()]`."""


@dataclass(frozen=True)
class Negatable:
    """Marks a bool that is off by default, and that other flags can turn on: then there is `--no-name` as well."""


class Settings(BaseModel):
    """The base of every configuration: its values are checked when it is built, and never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    # The fields that `--help` lists; None: all. A command that takes all flags of another one lists its own.
    listed: ClassVar[frozenset[str] | None] = None
    # The end of the line that refuses a word without a flag: what may be meant.
    stray_word: ClassVar[str] = ""


S = TypeVar("S", bound=Settings)
PARSER: Sequence[str] = ["(no arguments: the parser itself)"]


class _ParserMade(Exception):
    """Carries a parser out of `parse`, which was given PARSER."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parse(cls: type[S], argv: Sequence[str] | None, *, command: str, environment: str | None = None) -> S:
    """Build `cls` from flags, from the environment if a prefix is given, and from a file if one is named by these.

    Raises:
        SystemExit: 0 after `--help` and `--print-config`; 2 after one line that names the wrong flag, variable or key,
            its value and the reason.
    """
    parser, words = _parser(cls, command, environment), sys.argv[1:] if argv is None else argv
    if argv is PARSER:
        raise _ParserMade(parser)
    # Flags may stand between positional arguments, which argparse can do; but then it does not know "--".
    flags = vars(parser.parse_args(words) if "--" in words else parser.parse_intermixed_args(words))
    given = Source(flags, where=lambda name: _flag(cls, name), mark=lambda name: "flag")
    origins = _origins(cls, given, command, environment)
    _check_paths(cls, origins, command)
    try:
        settings = cls(**{name: source.values[name] for name, source in origins.items()})
    except ValidationError as error:
        fail(command, _complaint(cls, error, origins))
    if getattr(settings, "print_config", False):
        print("\n".join(_lines(settings, origins)))
        raise SystemExit(0)
    return settings


def parser_of(main: Callable[[Sequence[str]], int]) -> argparse.ArgumentParser:
    """Return the parser of a command whose `main` begins with `parse`, to complete its flags."""
    try:
        main(PARSER)
    except _ParserMade as made:
        return made.parser
    raise AssertionError("a command's main begins with parse")


def fail(command: str, reason: str, code: int = 2) -> NoReturn:
    """End the process with one line on stderr: code 2 for what the caller can correct, 1 for what failed."""
    # A quoted value may hold any character.
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in reason)
    with suppress(OSError):  # the exit code tells of the failure too
        print(f"{command}: {line}", file=sys.stderr)
    raise SystemExit(code)


def _origins(cls: type[Settings], flags: Source, command: str, environment: str | None) -> dict[str, Source]:
    """Return for each field that has a value its source: the first of command line, environment and file."""
    sources = [from_environment(cls, environment, os.environ), flags] if environment else [flags]
    origins = {name: source for source in sources for name in source.values}
    # An empty path is refused later, with all others.
    if "config" in origins and "config" in cls.model_fields and origins["config"].values["config"]:
        try:
            file = from_file(cls, Path(origins["config"].values["config"]))
        except FileError as error:
            fail(command, str(error))
        origins = dict.fromkeys(file.values, file) | origins
    return origins


def _check_paths(cls: type[Settings], origins: Mapping[str, Source], command: str) -> None:
    """Refuse empty paths: `Path` would take them for the current folder, which nobody means."""
    for name, source in origins.items():
        field, value = cls.model_fields[name], source.values[name]
        kind = without_none(field.annotation)
        if Path in (kind, *get_args(kind)) and "" in (value if is_tuple(field) else (value,)):
            fail(command, f"{source.where(name)}: is empty, a path is expected")


def _complaint(cls: type[Settings], error: ValidationError, origins: Mapping[str, Source]) -> str:
    first = error.errors()[0]
    if not first["loc"]:
        return first["msg"].removeprefix("Value error, ")
    name = str(first["loc"][0])
    where = origins[name].where(name) if name in origins else _flag(cls, name)
    if first["type"] == "missing":
        return f"{where}: is missing: {cls.model_fields[name].description}"
    examples = cls.model_fields[name].examples
    if examples and first["type"] == "string_pattern_mismatch":
        return f"{where}: is {first['input']!r}, allowed are values like {', '.join(examples)}"
    return f"{where}: {reason_of(first)}"


def _lines(settings: Settings, origins: Mapping[str, Source]) -> Iterator[str]:
    """Yield every setting as a line of TOML; those without a value, and the file itself, as comments."""
    for name in type(settings).model_fields:
        if name != "print_config":
            value = getattr(settings, name)
            shown = f"{name.rstrip('_')} = {'' if value is None else to_toml(value)}".rstrip()
            mark = origins[name].mark(name) if name in origins else "default"
            yield f"{'# ' if value is None or name == 'config' else ''}{shown}  # {mark}"


def _parser(cls: type[Settings], command: str, environment: str | None) -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog=command, description=cls.__doc__, argument_default=argparse.SUPPRESS, allow_abbrev=False
    )
    parser.stray_word = cls.stray_word
    if environment:
        parser.epilog = f"Every flag can be given as a variable: --some-flag as {environment}SOME_FLAG."
    groups: dict[str, argparse._ActionsContainer] = {}
    for name, field in cls.model_fields.items():
        title = _group(cls, name)
        if title and title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add(groups.get(title, parser), name, field, is_listed=cls.listed is None or name in cls.listed)
    return parser


def _group(cls: type[Settings], name: str) -> str:
    """Return the heading under which `--help` lists a field: the first line of the base class that it comes from."""
    declaring = next(kind for kind in cls.__mro__ if name in inspect.get_annotations(kind))
    title = "" if declaring is cls else (declaring.__doc__ or "").partition("\n")[0]
    return title.rstrip(".").partition(";")[0].lower()


class _OneLineParser(argparse.ArgumentParser):
    stray_word = ""

    def error(self, message: str) -> NoReturn:
        hint = ""
        if unknown := re.match(r"unrecognized arguments: (?:.* )??(--[^\s=]+)", message):
            hint = nearest(unknown[1], self._option_string_actions)
        elif self.stray_word and re.match(r"unrecognized arguments: [^-]", message):
            hint = f"; {self.stray_word}"
        fail(self.prog, f"{message}{hint}; see {self.prog} --help")


def _add(parser: argparse._ActionsContainer, name: str, field: FieldInfo, *, is_listed: bool) -> None:
    kind = without_none(field.annotation)
    options: dict[str, Any] = {"help": _help(field) if is_listed else argparse.SUPPRESS}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction if _has_negative(field) else "store_true"
    elif _is_positional(field):
        optional = None if field.is_required() else "?"
        options |= {"metavar": name.upper(), "nargs": "+" if is_tuple(field) else optional}
    elif is_tuple(field):
        options |= {"action": "append", "metavar": _metavar(get_args(kind)[0])}
    else:
        options["metavar"] = _metavar(kind)
    if _is_positional(field):
        action = parser.add_argument(name, **options)
    else:
        # The class finds out whether a required one is missing: the environment may have it.
        action = parser.add_argument(_flag_of(name), dest=name, **options)
    action.kind = kind  # type: ignore[attr-defined]  # for completion


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


def _is_positional(field: FieldInfo) -> bool:
    return any(isinstance(mark, Positional) for mark in field.metadata)


def _has_negative(field: FieldInfo) -> bool:
    return bool(field.default) or any(isinstance(mark, Negatable) for mark in field.metadata)


def _flag(cls: type[Settings], name: str) -> str:
    return name.upper() if _is_positional(cls.model_fields[name]) else _flag_of(name)


def _flag_of(name: str) -> str:
    """Drop a trailing underscore, which only keeps a field from shadowing a name: `json_` is --json."""
    return "--" + name.rstrip("_").replace("_", "-")
