"""Certificates as files, and all the files of a guarded server."""

from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme

from server.access.authentication import token_line

__all__ = ["NAME", "Pem", "Setup", "issue"]

NAME = "chars.example.org"


@dataclass(frozen=True)
class Pem:
    """Files with a certificate, its key, and the authority that signed it."""

    cert: Path
    key: Path
    ca: Path

    def credentials(self, ca: Path) -> grpc.ChannelCredentials:
        """Of a client that shows this certificate, to a server whose certificate is of the authority `ca`."""
        return grpc.ssl_channel_credentials(ca.read_bytes(), self.key.read_bytes(), self.cert.read_bytes())


def issue(ca: trustme.CA, folder: Path, *names: str, common_name: str | None = None) -> Pem:
    """A certificate for some names, in a new folder."""
    folder.mkdir()
    pem, issued = Pem(folder / "cert", folder / "key", folder / "ca"), ca.issue_cert(*names, common_name=common_name)
    pem.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    pem.key.write_bytes(issued.private_key_pem.bytes())
    pem.key.chmod(0o600)
    ca.cert_pem.write_to_path(str(pem.ca))
    return pem


@dataclass(frozen=True)
class Setup:
    """The files of a server that asks for certificates and tokens, and what a client of it needs."""

    own: Pem
    client: Pem
    tokens: Path
    keys: Path
    token: str

    @classmethod
    def create(cls, folder: Path) -> "Setup":
        """With certificates of authorities of its own, one token and one key."""
        folder.mkdir(exist_ok=True)
        setup = cls(
            issue(trustme.CA(), folder / "server", NAME, "127.0.0.1"),
            issue(trustme.CA(), folder / "client", "ada@example.org"),
            folder / "tokens",
            folder / "keys",
            f"token-of-{folder.name}",
        )
        setup.tokens.write_text(token_line("ada", setup.token))
        setup.keys.write_text(f"key-of-{folder.name}".ljust(32, "."))
        return setup

    @property
    def flags(self) -> tuple[str, ...]:
        tls = ("--tls-cert", str(self.own.cert), "--tls-key", str(self.own.key), "--tls-client-ca", str(self.client.ca))
        return (*tls, "--tokens", str(self.tokens), "--resume-keys", str(self.keys))

    @property
    def client_flags(self) -> tuple[str, ...]:
        own = ("--tls-client-cert", str(self.client.cert), "--tls-client-key", str(self.client.key))
        return ("--tls-ca", str(self.own.ca), *own)

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        return self.client.credentials(self.own.ca)
