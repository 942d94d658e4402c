"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["naming", "whole"]


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to, which takes its place in the end; where that fails, nothing is left of it.

    Raises:
        OSError: which names `file`.
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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError that names nothing, as that of a full disk, names `path`."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
