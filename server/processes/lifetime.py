"""Binds a process that loads its model to the thread that started it, which waits for it."""

import ctypes
import os
import select
import signal

__all__ = ["end_with_starter", "outlive_starter"]

PR_SET_PDEATHSIG = 1  # of Linux: linux/prctl.h


def end_with_starter(descriptor: int) -> None:
    """Have the system kill this process when the thread that started it ends, with its server or alone.

    It cannot see the end of its connection, which has this file descriptor, while it loads.
    """
    _set_signal(signal.SIGKILL)
    poll = select.poll()
    poll.register(descriptor, 0)
    if poll.poll(0):  # closed: the thread has ended before
        os._exit(0)


def outlive_starter() -> None:
    """Live on when the thread that started this process ends: it may be one of a pool that is not needed any more."""
    _set_signal(0)


def _set_signal(number: int) -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(PR_SET_PDEATHSIG, number)
