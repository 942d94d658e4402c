"""charstream serve."""

import asyncio
import logging
import sys
from collections.abc import Sequence

from charstream.settings import fail, parse
from server.lifecycle import CannotStart, Server
from server.settings import ServerSettings

COMMAND = "charstream serve"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 drained; 1 could not start, or an engine broke; 2 wrong usage; 128 + N a second signal N."""
    settings = parse(ServerSettings, argv, command=COMMAND, environment="CHARSTREAM_")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return asyncio.run(_serve(settings))
    except CannotStart as error:
        fail(COMMAND, str(error), code=1)


async def _serve(settings: ServerSettings) -> int:
    return await Server(settings).run()


if __name__ == "__main__":
    sys.exit(main())
