"""The command `charstream serve`."""

import asyncio
import logging
import os
import resource
import sys
from collections.abc import Sequence

from charstream.settings import fail, parse
from server.errors import CannotStart
from server.observe import logs
from server.server import Server
from server.settings import ServerSettings

COMMAND = "charstream serve"
# Open files that are no connections: libraries, models while they are read, the log, those of the metrics port.
OTHER_FILES = 128

log = logging.getLogger("charstream.server")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: drained; 1: could not start, or an engine broke; 2: wrong usage; 128 + N: a second signal N."""
    settings = parse(ServerSettings, argv, command=COMMAND, environment="CHARSTREAM_")
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


def _allow_open_files(wanted: int) -> None:
    """Raise the limit of open files to `wanted`, or as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most < wanted:
        log.warning("the system allows %d open files: --max-connections needs %d", most, wanted)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _serve(settings: ServerSettings) -> int:
    return await Server(settings).run()


if __name__ == "__main__":
    sys.exit(main())
