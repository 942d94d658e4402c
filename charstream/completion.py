"""`charstream completion`: a script by which a shell completes the commands, their flags, and the names of files."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import shtab
from pydantic import Field

from charstream.__main__ import COMMANDS
from charstream.settings import Positional, Settings, parse, parser_of

__all__ = ["main"]

COMMAND = "charstream completion"


class CompletionSettings(Settings):
    """Prints a script by which a shell completes commands, flags, their choices, and files. For bash:
    charstream completion bash > ~/.local/share/bash-completion/completions/charstream
    For zsh: > _charstream in a folder of $fpath. For fish: > ~/.config/fish/completions/charstream.fish"""

    shell: Annotated[Literal["bash", "zsh", "fish"], Positional()] = Field(description="bash, zsh or fish")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(CompletionSettings, argv, command=COMMAND)
    print(shtab.complete(_parser(), settings.shell))
    return 0


def _parser() -> argparse.ArgumentParser:
    """Return a parser of the whole command; what an extra brings that is not installed is left out."""
    parser = argparse.ArgumentParser("charstream")
    parser.add_argument("--version", action="store_true", help="print the versions of all that matters")
    commands = parser.add_subparsers()
    for name, (module, text, extra) in COMMANDS.items():
        try:
            part = importlib.import_module(module)
        except ModuleNotFoundError as error:
            print(f"{COMMAND}: without {name}, as {error.name} is not installed (extra {extra})", file=sys.stderr)
            continue
        own = parser_of(part.main)
        for action in own._actions:
            _add_completion(action)
        commands.add_parser(name, parents=[own], add_help=False, help=text)
    return parser


def _add_completion(action: argparse.Action) -> None:
    kind = getattr(action, "kind", None)
    if Path in (kind, *get_args(kind)):
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    elif get_origin(kind) is Literal:
        action.choices = get_args(kind)
