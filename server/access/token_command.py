"""`charstream token` makes a token for a caller, and the line by which servers know it."""

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from charstream.settings import Positional, Settings, fail, parse
from server.access.authentication import NAME, token_line

__all__ = ["TokenSettings", "main"]

COMMAND = "charstream token"
TOKEN_BYTES = 32


class TokenSettings(Settings):
    """Makes a token and prints it on stdout, this once: servers know only its SHA-256. A name may have several tokens,
    so that a new one can be handed out before the line of the old one is deleted."""

    name: Annotated[str, Positional()] = Field(
        pattern=rf"^{NAME}$", description="who will call with it: letters, digits and any of ._@-"
    )
    file: Path | None = Field(
        None,
        description="add the line to this file, the one of charstream serve --tokens; without it the line goes to "
        "stderr",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Return exit code 0; exit with 1 if the file cannot be written, with 2 if the name is not allowed."""
    settings = parse(TokenSettings, argv, command=COMMAND)
    token = secrets.token_urlsafe(TOKEN_BYTES)
    line = token_line(settings.name, token)
    if settings.file:
        try:
            _append(settings.file, line)
        except OSError as error:
            fail(COMMAND, f"--file: {settings.file}: {error.strerror}", code=1)
    else:
        print(f"a line for the file of charstream serve --tokens:\n{line}", end="", file=sys.stderr)
    print(token)
    return 0


def _append(path: Path, line: str) -> None:
    """Append in one write: so no server reads half a line, and two of these commands do not mix theirs."""
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(file).st_size
        unfinished = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, f"{chr(10) if unfinished else ''}{line}".encode())
    finally:
        os.close(file)


if __name__ == "__main__":
    sys.exit(main())
