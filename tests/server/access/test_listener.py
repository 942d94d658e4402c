"""An address that cannot be one is said in one line, and one that is in a form that clients take."""

from pathlib import Path

import grpc
import pytest
import trustme
from cryptography import x509

from server.access.listener import bind, describe
from server.errors import CannotStart
from server.settings import ServerSettings
from tests.conftest import ready, start_server, stop
from tests.server.authority import issue


@pytest.mark.parametrize("host", ["a..b", "a" * 300, "1\udce0"])
async def test_a_name_that_no_host_can_have(host: str) -> None:
    server = grpc.aio.server()
    with pytest.raises(CannotStart, match="is no name that a host can have"):
        bind(server, ServerSettings(host=host, port=0))
    await server.stop(0)


def test_what_is_asked_of_clients_and_until_when(tmp_path: Path) -> None:
    own = issue(trustme.CA(), tmp_path / "own", "127.0.0.1")
    end = trustme_end(own.cert.read_bytes())
    tls = ServerSettings(tls_cert=own.cert, tls_key=own.key)
    assert describe(tls, 7) == f"127.0.0.1:7 (TLS, its certificate ends {end}, no tokens)"
    both = ServerSettings(host="::1", tls_cert=own.cert, tls_key=own.key, tls_client_ca=own.ca, tokens=own.cert)
    assert describe(both, 7) == f"[::1]:7 (TLS, its certificate ends {end}, certificates of clients, tokens)"
    own.cert.unlink()
    assert "its certificate ends unknown" in describe(tls, 7)


def trustme_end(pem: bytes) -> str:
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.strftime("%Y-%m-%d")


def test_the_address_of_the_log_is_one_for_clients(bundles: Path) -> None:
    server = start_server(bundles, "--host", "::1", "--precision", "fp32")
    try:
        assert ready(server).address.startswith("[::1]:")
        server.wait_for(r"listening on \S+ \(no TLS, no tokens\)")
        with grpc.insecure_channel(server.address) as channel:
            grpc.channel_ready_future(channel).result(30)
    finally:
        stop(server)
