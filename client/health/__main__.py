"""The name of `python -m client.commands.health` that the probes of earlier deployments call."""

import sys

from client.commands.health import main

if __name__ == "__main__":
    sys.exit(main())
