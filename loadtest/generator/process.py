"""The generator's process: `python -m loadtest.generator.process`.

It says on stdout when it is ready. Commands come as JSON lines on stdin, the first one is the configuration; each
`collect` is answered by a line on stdout. It ends when stdin does.
"""

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

from client.commands.common import connect
from client.errors import CharstreamError
from loadtest.generator.config import GeneratorConfig
from loadtest.generator.load import Load
from loadtest.prompts import choose_prompts

__all__ = ["main"]

LINE_BYTES = 2**26
CONNECT_SECONDS = 10.0


async def serve(lines: asyncio.StreamReader) -> None:
    print('"ready"', flush=True)
    if not (first := await lines.readline()):
        return
    load = Load(_with_prompts(GeneratorConfig.model_validate_json(first)))
    begun = time.process_time()
    try:
        while line := await lines.readline():
            await _obey(load, json.loads(line), begun)
    finally:
        await load.close()


def _with_prompts(config: GeneratorConfig) -> GeneratorConfig:
    """Return the configuration with prompts: those that came with the model, unless others were given."""
    if config.prompts:
        return config
    try:
        with connect(config.connection) as client:
            found = choose_prompts(client.model(config.scenario.model, timeout=CONNECT_SECONDS))
    except CharstreamError:
        found = ("",)  # the texts will fail, and say why
    return config.model_copy(update={"prompts": found})


async def _obey(load: Load, command: dict[str, Any], begun: float) -> None:
    match command["do"]:
        case "join":
            load.join(command["user"])
        case "leave":
            load.leave(command["user"])
        case "dispatch":
            load.dispatch()
        case "halt":
            await load.halt()
        case "collect":
            sys.stdout.write(json.dumps(_report(load, begun)) + "\n")
            sys.stdout.flush()


def _report(load: Load, begun: float) -> dict[str, Any]:
    """Return what was measured since the last report; counts of checks and CPU seconds are since the beginning."""
    measures, ended = load.take()
    return {
        "measures": measures.to_json(),
        "ended": [
            [(record.ended - record.intended) * 1000, record.chars, record.reason or None]
            for record in ended
            if record.end in ("finished", "failed")
        ],
        "checks": load.checks.counts,
        "differences": [str(found) for found in load.checks.differences[:5]],
        "cpu_seconds": time.process_time() - begun,
    }


async def _run() -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await serve(lines)


def main() -> int:
    # A terminal's Ctrl-C is for Locust, which ends this process by closing its stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_run())
    return 0


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(main())
