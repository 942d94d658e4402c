"""A server that is started, probed, asked, scraped and ended as deploy/kubernetes says, but for folders and ports."""

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme

from client import Client, NotAllowed
from server.access.authentication import token_line
from tests.conftest import ServerProcess, start_server, stop
from tests.deploy.manifests import BASE, container, manifests

TOKEN = "a-token-of-alice"


@dataclass
class Replica:
    """A server, its folder of mounts, and where its metrics are."""

    process: ServerProcess
    folder: Path
    metrics: str

    def client(self, token: str | None) -> Client:
        credentials = grpc.ssl_channel_credentials((self.folder / "tls" / "ca.crt").read_bytes())
        port = self.process.address.rpartition(":")[2]
        return Client(f"localhost:{port}", credentials=credentials, token=token, patience=0)

    def probe(self, name: str) -> int:
        """The exit code of an exec probe."""
        command = [self._adapt(word) for word in container()[name]["exec"]["command"]]
        assert command[0] == "python3"
        return subprocess.run([sys.executable, *command[1:]], capture_output=True, timeout=60).returncode

    def get(self, path: str) -> tuple[int, str]:
        with urllib.request.urlopen(f"http://{self.metrics}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()

    def _adapt(self, word: str) -> str:
        return word.replace("/etc/charstream", str(self.folder)).replace("127.0.0.1:50051", self.process.address)


@pytest.fixture(scope="module")
def replica(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    folder = tmp_path_factory.mktemp("mounts")
    write_secrets(folder)
    (folder / "server.toml").write_text(local_configuration(bundles, folder))
    process = start_server(bundles, *container()["args"][:1], str(folder / "server.toml"))
    try:
        process.address = process.wait_for(r"listening on ([\d.:]+)").group(1)
        yield Replica(process, folder, process.wait_for(r"metrics on ([\d.:]+)").group(1))
    finally:
        stop(process)


def local_configuration(bundles: Path, folder: Path) -> str:
    """The configuration, with this machine's folders and ports."""
    text = (BASE / "server.toml").read_text()
    for there, here in (
        ("/etc/charstream", str(folder)),
        ('"/models"', f'"{bundles}"'),
        ("0.0.0.0", "127.0.0.1"),
        ("metrics_port = 9464", "metrics_port = 0"),
        ("drain_delay = 10", "drain_delay = 0"),
    ):
        assert there in text
        text = text.replace(there, here)
    return text


def write_secrets(folder: Path) -> None:
    """Write the files that the two secrets hold."""
    authority = trustme.CA()
    certificate = authority.issue_cert("charstream", "localhost")
    (folder / "tls").mkdir()
    authority.cert_pem.write_to_path(folder / "tls" / "ca.crt")
    certificate.private_key_pem.write_to_path(folder / "tls" / "tls.key")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(folder / "tls" / "tls.crt", append=True)
    (folder / "keys").mkdir()
    (folder / "keys" / "tokens").write_text(token_line("alice", TOKEN))
    (folder / "keys" / "resume-keys").write_text("k" * 64)


def test_probes_see_a_server_that_serves(replica: Replica) -> None:
    assert replica.probe("startupProbe") == 0
    assert replica.probe("readinessProbe") == 0
    assert replica.get(container()["livenessProbe"]["httpGet"]["path"])[0] == 200


def test_callers_need_the_token_that_the_secret_knows(replica: Replica) -> None:
    with replica.client(TOKEN) as client:
        assert len(client.stream("Hello", max_chars=40, seed=1).read()) == 40
    with replica.client("another") as client, pytest.raises(NotAllowed):
        client.stream("Hello", max_chars=40, seed=1).read()


def test_prometheus_finds_metrics_where_the_annotations_say(replica: Replica) -> None:
    annotations = manifests()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    status, text = replica.get(annotations["prometheus.io/path"])
    assert status == 200
    assert re.search(r"^grpc_server_started_total\{", text, re.MULTILINE)


def test_it_drains_and_probes_see_that_it_is_gone(replica: Replica) -> None:
    """Comes last: it ends the server."""
    replica.process.signal(signal.SIGTERM)
    assert replica.process.wait() == 0
    assert replica.probe("readinessProbe") == 1
