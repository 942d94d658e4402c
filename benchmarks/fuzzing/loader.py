"""Load the bundles whose folders come in, one a line, and answer each with a line."""

import resource
import sys
import traceback
from pathlib import Path

from bundle.read import read_bundle
from server.runtime.host_runner import CannotRun
from server.runtime.load import load
from server.settings import ServerSettings

# A graph that takes more is refused for want of memory, and takes none from other processes.
MOST_BYTES = 4 << 30


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    settings = ServerSettings(provider="cpu", precision="fp32", threads=1)
    for line in sys.stdin:
        try:
            load(read_bundle(Path(line.rstrip("\n"))), settings)
            print("OK", flush=True)
        except CannotRun:
            print("refused", flush=True)
        except Exception as error:
            print(repr(traceback.format_exception(error)), flush=True)


if __name__ == "__main__":
    main()
