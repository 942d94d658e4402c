"""One process at a time trains into a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.training.checkpoint import CheckpointError

__all__ = ["sole"]

LOCK = ".lock"


@contextmanager
def sole(folder: Path) -> Iterator[None]:
    """Makes the folder; within, no other process is here with it. The system lets go of what a killed process held.

    Raises:
        CheckpointError: another process trains into the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CheckpointError(
                f"another process trains into {folder} (pid {file.read() or 'not known'}): wait for its end, "
                "or name another folder by --out"
            ) from None
        except OSError:
            pass  # a file system that has no locks
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
