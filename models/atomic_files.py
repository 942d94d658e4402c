"""Files that are written as a whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["name_in_errors", "replacement", "write_json"]


@contextmanager
def replacement(file: Path) -> Iterator[Path]:
    """Give a path to write to, which takes the place of `file` at the end; after an error nothing is left of it.

    Raises:
        OSError: it names `file`.
    """
    new = file.with_name(f".{file.name}.{os.getpid()}.new")  # processes of one search write the same file
    try:
        yield new
        new.replace(file)
    except BaseException as error:
        with suppress(OSError):
            new.unlink()
        if isinstance(error, OSError):
            error.filename = str(file)
        raise


def write_json(file: Path, content: Any) -> None:
    """Write JSON with an indent of two. Raises OSError."""
    with replacement(file) as new:
        new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Let an OSError that names no file, as that of a full disk, name `path`."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
