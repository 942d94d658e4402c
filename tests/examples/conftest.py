"""The certificate for TLS of the client's tests."""

from tests.client.conftest import certificate_files

__all__ = ["certificate_files"]
