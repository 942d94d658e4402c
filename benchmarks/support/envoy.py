"""A real Envoy before servers of this machine, with the configuration of deploy/envoy/ but for addresses and TLS."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

__all__ = ["CONFIGURATION", "MISSING", "EnvoyProcess", "binary", "local_configuration", "require_envoy"]

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "deploy" / "envoy" / "envoy.yaml"
INSTALLED = ROOT / ".tools" / "envoy" / "envoy" / "_bin" / "envoy"  # by `make envoy`
MISSING = "needs Envoy: `make envoy` fetches it"
START_SECONDS = 60.0
TLS = "transport_socket"


def require_envoy(command: str) -> None:
    """End a command with code 2 where Envoy is missing."""
    if binary() is None:
        print(f"{command}: {MISSING}", file=sys.stderr)
        raise SystemExit(2)


def binary() -> Path | None:
    """Return where Envoy is, or None: the variable ENVOY, what `make envoy` fetched, or the command."""
    found = os.environ.get("ENVOY") or (INSTALLED if INSTALLED.exists() else shutil.which("envoy"))
    return Path(found) if found else None


def local_configuration(replicas: Sequence[str], *, port: int = 0, tls: bool = False) -> dict[str, Any]:
    """Return the configuration for replicas on this machine, by host:port; without `tls` it has none on either side."""
    configuration: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
    (listener,), (cluster,) = (configuration["static_resources"][name] for name in ("listeners", "clusters"))
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    configuration["admin"]["address"]["socket_address"]["port_value"] = 0
    (endpoints,) = cluster["load_assignment"]["endpoints"]
    endpoints["lb_endpoints"] = [{"endpoint": {"address": {"socket_address": _place(each)}}} for each in replicas]
    if not tls:
        del cluster[TLS], listener["filter_chains"][0][TLS]
    return configuration


def _place(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"address": host, "port_value": int(port)}


class EnvoyProcess:
    """An Envoy that serves as soon as it is made.

    Args:
        configuration: see `local_configuration`.
        folder: where it is started, and looks for certificates.

    Attributes:
        address: where callers reach it.
        admin: where it answers questions over HTTP.
    """

    def __init__(self, configuration: dict[str, Any], folder: Path | None = None, *, threads: int = 1) -> None:
        found = binary()
        if found is None:
            raise SystemExit(MISSING)
        self._own = tempfile.TemporaryDirectory()
        file, admin, self._log = (Path(self._own.name, name) for name in ("envoy.json", "admin", "log"))
        file.write_text(json.dumps(configuration))
        command = [str(found), "-c", str(file), "--admin-address-path", str(admin), "--disable-hot-restart"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--concurrency", str(threads)], stdout=log, stderr=log, cwd=folder
            )
        self.pid = self._process.pid
        try:
            self.admin = self._wait(lambda: admin.read_text() if admin.exists() else "")
            self._wait(lambda: self._get("/ready"))
            listeners = json.loads(self._get("/listeners?format=json"))["listener_statuses"]
        except BaseException:
            self.stop(signal.SIGKILL)
            raise
        place = listeners[0]["local_address"]["socket_address"]
        self.address = f"{place['address']}:{place['port_value']}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def access_log(self, count: int) -> list[dict[str, Any]]:
        """Return the calls that ended, as soon as that number of them is written."""
        found: list[dict[str, Any]] = []

        def read() -> bool:
            self._get("/reopen_logs", "POST")  # Envoy would write them some seconds later
            found[:] = [json.loads(line) for line in self.log.splitlines() if line.startswith('{"')]
            return len(found) >= count

        self._wait(read)
        return found

    def wait_for_healthy(self, count: int) -> None:
        """Wait until that number of replicas gets texts."""
        self._wait(lambda: "yes" if len([name for name, flags in self.hosts().items() if not flags]) >= count else "")

    def hosts(self) -> dict[str, set[str]]:
        """Return why each replica gets no texts, by address; an empty set of one that gets them."""
        (cluster,) = json.loads(self._get("/clusters?format=json"))["cluster_statuses"]
        return {
            "{address}:{port_value}".format(**host["address"]["socket_address"]): {
                name for name, value in host["health_status"].items() if name != "eds_health_status" and value
            }
            for host in cluster.get("host_statuses", ())
        }

    def statistics(self, pattern: str = "") -> dict[str, int]:
        """Return counters and gauges whose name matches."""
        found = re.findall(r"^(\S+): (\d+)$", self._get(f"/stats?filter={pattern}"), re.MULTILINE)
        return {name: int(value) for name, value in found}

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait()

    def __enter__(self) -> "EnvoyProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._own.cleanup()

    def _get(self, path: str, method: str = "GET") -> str:
        try:
            with urlopen(Request(f"http://{self.admin}{path}", method=method), timeout=20) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return ""

    def _wait(self, condition: Any) -> str:
        """Return the first result that is not empty. Raises SystemExit: Envoy has ended, or the time is over."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            if found := condition():
                return str(found)
            time.sleep(0.02)
        raise SystemExit(f"Envoy does not come so far in {START_SECONDS:g} s: {self.log[-2000:]}")
