"""Replicas behind Envoy on this machine, until Ctrl-C.

    make cluster N=3
    python -m benchmarks.replicas.cluster --replicas 3 [--models bundles]

The models are those in bundles/, or where there are none those that come with charstream. Envoy has the configuration
of deploy/envoy/, without TLS as all is on this machine. A replica that is killed is not started again: so one can see
what happens.
"""

import argparse
import secrets
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.replicas.replicas import Replicas
from benchmarks.support.envoy import EnvoyProcess, local_configuration, require_envoy
from bundle.pretrained import FOLDER

__all__ = ["main"]

PORT = 50051


def main() -> int:
    """Return 0 after Ctrl-C or SIGTERM, 2 where something is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replicas.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--replicas", type=int, default=3, help="number of servers (%(default)s)")
    parser.add_argument("--models", type=Path, default=Path("bundles"), help="folder of bundles (%(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="Envoy's port; 0 takes any free one (%(default)s)")
    settings = parser.parse_args()
    if settings.replicas < 1:
        parser.error(f"--replicas: {settings.replicas} is no number of servers: 1 or more are")
    require_envoy("cluster")
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell in the background ignores SIGINT, and so would we
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run(Path(folder), settings)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
    return 0


def _run(folder: Path, settings: argparse.Namespace) -> None:
    models, keys = settings.models, folder / "keys"
    if not any(models.glob("*/manifest.json")) and not any(models.glob("*/*/manifest.json")):
        print(f"{models}/ has no bundles: the models that come with charstream are served", file=sys.stderr)
        models = FOLDER
    keys.write_text(secrets.token_hex(32))
    keys.chmod(0o600)
    flags = ("--resume-keys", str(keys), "--engines", "1", "--drain-delay", "5", "--metrics-port", "0")
    text = '"Hello" --max-chars 50000 --temperature 0.7 --seed 7'
    with ExitStack() as stack:
        replicas = stack.enter_context(Replicas([models] * settings.replicas, *flags))
        envoy = stack.enter_context(EnvoyProcess(local_configuration(replicas.addresses, port=settings.port)))
        envoy.wait_for_healthy(settings.replicas)
        for number, address in enumerate(replicas.addresses):
            print(f"replica {number + 1}: {address}, process {replicas.server(number).pid}")
        print(f"Envoy: {envoy.address}, its statistics: http://{envoy.admin}/")
        print(f"try: charstream stream {text} --host {envoy.address}")
        print(f"     charstream fleet {' '.join(replicas.addresses)}    # rows: who has the text")
        port = replicas.addresses[0].rpartition(":")[2]
        print(f"to start replica 1 again: charstream serve --models {models} --port {port} {' '.join(flags)}")
        print("Ctrl-C stops all of it", flush=True)
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
