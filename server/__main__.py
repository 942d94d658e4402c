"""The command `charstream serve`."""

import asyncio
import logging
import os
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from charstream.settings import fail, parse
from server.errors import CannotStart
from server.observe import logs
from server.processes.cores import most_engines, usable_cores
from server.server import Server
from server.settings import ServerSettings

COMMAND = "charstream serve"
# Open files that are no connections: libraries, models while they are read, the log, those of the metrics port.
OTHER_FILES = 128
# As many may wait at the same time, without keeping an engine's successor from being started.
LOOP_THREADS = 64

log = logging.getLogger("charstream.server")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: drained; 1: could not start, or an engine broke; 2: wrong usage; 128 + N: a second signal N."""
    settings = parse(ServerSettings, argv, command=COMMAND, environment="CHARSTREAM_")
    _check_engines(settings)
    logs.configure(settings)
    ports = 1 if settings.http_port is None else 2
    _allow_open_files(ports * settings.max_connections + OTHER_FILES)
    try:
        code = asyncio.run(_serve(settings))
    except CannotStart as error:
        if settings.log_format == "json":
            log.critical("cannot start: %s", error)
            return 1
        logging.shutdown()  # the log's lines about it come first
        fail(COMMAND, str(error), code=1)
    logging.shutdown()
    # Python would wait for a model that is just being loaded.
    os._exit(code)


def _check_engines(settings: ServerSettings) -> None:
    """End with exit code 2 if more engine processes are wanted than this machine can use."""
    cores = usable_cores()
    most = most_engines(cores)
    if settings.engines != "auto" and int(settings.engines) > most:
        said = f"this process may use {cores} {'core' if cores == 1 else 'cores'}: give auto, or 0 to {most}"
        fail(COMMAND, f"--engines {settings.engines}: {said}", code=2)


def _allow_open_files(wanted: int) -> None:
    """Raise the limit of open files to `wanted`, or as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most < wanted:
        log.warning("the system allows %d open files: --max-connections needs %d", most, wanted)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _LoopThreads(ThreadPoolExecutor):
    """The event loop's own threads, for which the server's end does not wait.

    They have what may take long: an engine's start, a name's address, a file of a volume that does not answer.
    """

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


async def _serve(settings: ServerSettings) -> int:
    asyncio.get_running_loop().set_default_executor(_LoopThreads(LOOP_THREADS, "loop"))
    return await Server(settings).run()


if __name__ == "__main__":
    sys.exit(main())
