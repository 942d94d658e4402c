"""A server that others can reach: TLS, certificates of clients and tokens, with our clients and commands; and where it
refuses to listen."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from client import AsyncClient, Client, NotAllowed, Unavailable
from server.access.listener import bind
from server.access.reloading import LOOK_SECONDS
from server.errors import CannotStart
from server.settings import ServerSettings
from tests.conftest import ServerProcess, ready, start_server, stop
from tests.forked import run_forked
from tests.server.authority import NAME, Setup, issue

SECONDS = 180


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup.create(tmp_path_factory.mktemp("setup") / "own")


@pytest.fixture(scope="module")
def guarded(bundles: Path, setup: Setup) -> Iterator[ServerProcess]:
    process = start_server(bundles, "--precision", "fp32", *setup.flags)
    yield ready(process)
    stop(process)


def test_handshakes_of_strangers_write_nothing_past_the_log(bundles: Path, setup: Setup) -> None:
    """gRPC's threads would wait for whoever reads stderr."""
    process = start_server(bundles, "--precision", "fp32", "--log-format", "json", *setup.flags)
    try:
        host, _, port = ready(process).address.rpartition(":")
        for _ in range(20):
            with socket.create_connection((host, int(port)), timeout=SECONDS) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                while stranger.recv(4096):
                    pass
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        process.wait_for("ended")
        assert all(json.loads(line) for line in process.lines)
    finally:
        stop(process)


@pytest.mark.parametrize("command", ["stream", "score", "models", "loadtest"])
def test_each_command_reaches_a_guarded_server(
    guarded: ServerProcess, setup: Setup, tmp_path: Path, command: str
) -> None:
    token, text = tmp_path / "token", tmp_path / "text"
    token.write_text(setup.token)
    text.write_text("abc")
    load = ("--seconds", "1", "--users", "2", "--wait", "0.1", "--null-seconds", "0")
    arguments = {"stream": ("abc", "--max-chars", "5"), "score": (str(text),), "loadtest": load}
    flags = (*arguments.get(command, ()), "--host", guarded.address, *setup.client_flags)
    done = charstream(command, *flags, "--token-file", str(token))
    assert done.returncode == 0, done.stderr
    assert done.stdout


def charstream(*argv: str) -> "subprocess.CompletedProcess[str]":
    return _run(["-m", "charstream", *argv], {})


def health(*argv: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return _run(["-m", "client.commands.health", *argv], variables)


def _run(command: Sequence[str], variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return run_forked(command, env={**os.environ, **variables}, timeout=SECONDS)


def test_a_command_says_in_a_line_what_it_lacks(guarded: ServerProcess, setup: Setup) -> None:
    refused = charstream("stream", "abc", "--host", guarded.address, *setup.client_flags)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "authorization: is missing" in refused.stderr
    wrong_key = ("--tls-client-cert", str(setup.client.cert), "--tls-client-key", str(setup.own.key))
    unusable = charstream("models", "--host", guarded.address, *wrong_key)
    assert (unusable.returncode, unusable.stderr.count("\n")) == (2, 1)
    assert "is not the key" in unusable.stderr


def test_health_needs_no_token_and_no_name_of_127_0_0_1(guarded: ServerProcess, setup: Setup) -> None:
    """By flags as a probe has them, and by variables as a container; the server's own certificate may be what is
    trusted, so that a probe needs no other file."""
    port = guarded.address.rsplit(":", 1)[1]
    flags = ("--host", f"localhost:{port}", *setup.client_flags)
    assert health(*flags, "--tls-name", NAME).returncode == 0
    assert health(*flags).returncode == 1
    variables = {
        "CHARSTREAM_HEALTH_TLS_CA": str(setup.own.cert),
        "CHARSTREAM_HEALTH_TLS_NAME": NAME,
        "CHARSTREAM_HEALTH_TLS_CLIENT_CERT": str(setup.client.cert),
        "CHARSTREAM_HEALTH_TLS_CLIENT_KEY": str(setup.client.key),
    }
    assert health("--host", f"localhost:{port}", **variables).returncode == 0
    assert health("--host", f"localhost:{port}").returncode == 1


async def test_both_clients_read_the_same_text(guarded: ServerProcess, setup: Setup) -> None:
    options: dict[str, Any] = {"max_chars": 50, "seed": 3}
    async with AsyncClient(guarded.address, credentials=setup.credentials, token=setup.token) as client:
        text = "".join([chunk async for chunk in client.stream("abc", **options)])
    with Client(guarded.address, credentials=setup.credentials, token=setup.token) as blocking:
        assert "".join(blocking.stream("abc", **options)) == text
    assert len(text) == 50


def test_only_a_client_of_its_authority_that_trusts_its_certificate_gets_in(
    guarded: ServerProcess, setup: Setup, tmp_path: Path
) -> None:
    stranger = issue(trustme.CA(), tmp_path / "stranger", "eve@example.org")
    for credentials in (
        None,
        grpc.ssl_channel_credentials(setup.own.ca.read_bytes()),
        stranger.credentials(setup.own.ca),
        setup.client.credentials(stranger.ca),
    ):
        with Client(guarded.address, credentials=credentials, patience=0) as client, pytest.raises(Unavailable):
            client.models(timeout=SECONDS)
    for token in (None, "wrong"):
        with Client(guarded.address, credentials=setup.credentials, token=token) as client, pytest.raises(NotAllowed):
            client.models(timeout=SECONDS)


async def bound(**fields: Any) -> int:
    server = grpc.aio.server()
    try:
        return bind(server, ServerSettings(port=0, **fields))
    finally:
        await server.stop(None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_where_others_can_reach_it_only_tls_or_insecure_lets_it_listen(
    setup: Setup, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    with pytest.raises(CannotStart, match=f"--host {host}: .* --tls-cert and --tls-key, or --insecure"):
        await bound(host=host)
    assert await bound(host=host, tls_cert=setup.own.cert, tls_key=setup.own.key)
    assert "no TLS" not in caplog.text
    assert await bound(host=host, insecure=True)
    assert "no TLS" in caplog.text
    assert "--tokens without TLS" not in caplog.text
    assert await bound(host=host, insecure=True, tokens=setup.tokens)
    assert "--tokens without TLS" in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.3.2.1", "::1"])
async def test_on_this_machine_it_listens_without(host: str, caplog: pytest.LogCaptureFixture) -> None:
    assert await bound(host=host)
    assert not caplog.records


def damaged(kind: str, setup: Setup, folder: Path) -> dict[str, Path]:
    """Files of which one cannot be used."""
    folder.mkdir(exist_ok=True)
    cert, key, ca = folder / "cert", folder / "key", folder / "ca"
    cert.write_bytes(setup.own.cert.read_bytes())
    key.write_bytes(setup.own.key.read_bytes())
    ca.write_bytes(setup.client.ca.read_bytes())
    match kind:
        case "other key":
            key.write_bytes(setup.client.key.read_bytes())
        case "half a certificate":
            cert.write_bytes(cert.read_bytes()[:300])
        case "no key":
            key.unlink()
        case "key with a passphrase":
            encrypt(setup.own.key, key)
        case "no authority":
            ca.write_text("nothing")
    return {"tls_cert": cert, "tls_key": key, "tls_client_ca": ca}


def encrypt(key: Path, into: Path) -> None:
    private = pem.load_pem_private_key(key.read_bytes(), None)
    algorithm = pem.BestAvailableEncryption(b"secret")
    into.write_bytes(private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, algorithm))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("other key", r"TLS: \S+key: is not the key of the certificate in \S+cert"),
        ("half a certificate", "TLS: .*: hold no certificate and private key in PEM"),
        ("no key", r"TLS: \S+key: No such file"),
        ("key with a passphrase", "TLS: .* without a passphrase"),
        ("no authority", r"TLS: \S+ca: has no certificate in PEM"),
    ],
)
async def test_with_files_it_cannot_use_it_does_not_start(setup: Setup, tmp_path: Path, kind: str, words: str) -> None:
    with pytest.raises(CannotStart, match=f"^{words}") as caught:
        await bound(**damaged(kind, setup, tmp_path / "damaged"))
    assert "\n" not in str(caught.value)


def of_kind(key: CertificateIssuerPrivateKeyTypes, like: Path, folder: Path) -> dict[str, Path]:
    """A certificate for that key, signed by itself, beside its key."""
    folder.mkdir(exist_ok=True)
    old, digest = x509.load_pem_x509_certificate(like.read_bytes()), None
    if isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        digest = hashes.SHA256()
    made = x509.CertificateBuilder(old.subject, old.subject, key.public_key(), old.serial_number)
    made = made.not_valid_before(old.not_valid_before_utc).not_valid_after(old.not_valid_after_utc)
    for extension in old.extensions:
        made = made.add_extension(extension.value, extension.critical)
    files = {"tls_cert": folder / "cert", "tls_key": folder / "key"}
    files["tls_cert"].write_bytes(made.sign(key, digest).public_bytes(pem.Encoding.PEM))
    encoding = (pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    files["tls_key"].write_bytes(key.private_bytes(*encoding))
    return files


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (ed448.Ed448PrivateKey.generate(), "Ed448"),
        (ec.generate_private_key(ec.SECP521R1()), "P-521"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (ec.generate_private_key(ec.BrainpoolP256R1()), "of another curve"),
        (rsa.generate_private_key(65537, 1024), "RSA of 1024 bits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_key_that_grpc_does_not_take_is_named(
    setup: Setup, tmp_path: Path, key: CertificateIssuerPrivateKeyTypes, kind: str
) -> None:
    with pytest.raises(CannotStart, match=f"^TLS: .*cert: its key is {kind}; gRPC takes P-256, P-384, and RSA of"):
        await bound(**of_kind(key, setup.own.cert, tmp_path))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "RSA 2048"],
)
async def test_with_a_key_that_is_taken_handshakes_are_made(
    setup: Setup, tmp_path: Path, key: CertificateIssuerPrivateKeyTypes
) -> None:
    """And go on being made when a key comes into its place that is not."""
    files = of_kind(key, setup.own.cert, tmp_path)
    server = grpc.aio.server()
    port = bind(server, ServerSettings(port=0, **files))
    await server.start()
    trusted = grpc.ssl_channel_credentials(files["tls_cert"].read_bytes())
    try:
        await shake_hands(port, trusted)
        of_kind(ed25519.Ed25519PrivateKey.generate(), setup.own.cert, tmp_path)
        await asyncio.sleep(LOOK_SECONDS)
        await shake_hands(port, trusted)
    finally:
        await server.stop(None)


async def shake_hands(port: int, trusted: grpc.ChannelCredentials) -> None:
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", trusted, options) as channel:
        await asyncio.wait_for(channel.channel_ready(), SECONDS)


def test_what_keeps_it_from_starting_is_one_line(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("ada secret\n")
    for flags, words in (
        (("--host", "0.0.0.0"), "charstream serve: --host 0.0.0.0: others can reach this address"),
        (("--tokens", str(tmp_path / "tokens")), f"charstream serve: --tokens: {tmp_path}/tokens, line 1: is not"),
    ):
        process = start_server(bundles, *flags)
        try:
            assert process.wait(SECONDS) == 1
            process.wait_for(re.escape(words))
            assert "Traceback" not in process.log
            assert "ada secret" not in process.log
        finally:
            stop(process)


@pytest.mark.parametrize("fields", [{"tls_cert": "c"}, {"tls_key": "k"}, {"tls_client_ca": "a"}])
def test_half_of_the_files_is_wrong_usage(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--tls-cert and --tls-key"):
        ServerSettings(**fields)


async def test_authorities_may_have_comments_in_any_language(setup: Setup, tmp_path: Path) -> None:
    """As the bundles of browsers and systems do."""
    ca = tmp_path / "ca"
    ca.write_text(f"# Ťaŭthoriťy\n{setup.own.ca.read_text()}")
    assert await bound(host="127.0.0.1", tls_cert=setup.own.cert, tls_key=setup.own.key, tls_client_ca=ca)
