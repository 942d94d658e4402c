"""A lock on a run's folder: one process at a time trains into it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.run_folder import LOCK
from models.training.checkpoint import CheckpointError

__all__ = ["locked_folder"]


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make the folder, and keep other processes out of this context with it until the block ends.

    The operating system releases the lock of a process that was killed.

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
            pass  # a file system without locks
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
