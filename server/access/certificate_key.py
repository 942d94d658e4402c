"""The kind of a certificate's key, as OpenSSL loads more kinds than gRPC can make handshakes with; and its last day.

gRPC has BoringSSL, whose clients offer ECDSA with two curves, and RSA; it cannot be asked beforehand. So the kind is
read from the certificate itself (X.509 in DER: RFC 5280, section 4.1): by hand, as neither Python's ssl nor gRPC tells
it, and `cryptography` would be a dependency of serving for these lines alone.
"""

from collections.abc import Iterator

__all__ = ["ACCEPTED", "last_day", "refused_key"]

LEAST_RSA_BITS = 2048
ACCEPTED = f"P-256, P-384, and RSA of at least {LEAST_RSA_BITS} bits"

VERSION = 0xA0  # the tag of an optional field
SHORT_TIME = 0x17
# Encoded object identifiers of kinds (RFC 3279, 4055 and 8410) and of curves (RFC 5480).
EC, RSA = "2a8648ce3d0201", "2a864886f70d010101"
KINDS = {"2a864886f70d01010a": "RSA-PSS", "2b6570": "Ed25519", "2b6571": "Ed448"}
CURVES = {"2a8648ce3d030107": "P-256", "2b81040022": "P-384", "2b81040023": "P-521", "2b8104000a": "secp256k1"}
ACCEPTED_CURVES = {"P-256", "P-384"}


def refused_key(certificate: bytes) -> str:
    """Return the kind of the certificate's key if gRPC refuses it; "" if gRPC takes it, or this is no certificate."""
    try:
        *_, key = _fields(certificate)
        (_, algorithm), (_, numbers) = _elements(key)
        bits = numbers[1:]  # the first byte counts the last one's unused bits
        kind, *parameters = [content.hex() for _, content in _elements(algorithm)]
        if kind == EC:
            curve = CURVES.get(parameters[0], "of another curve")
            return "" if curve in ACCEPTED_CURVES else curve
        if kind == RSA:
            size = _modulus(bits).bit_length()
            return "" if size >= LEAST_RSA_BITS else f"RSA of {size} bits"
        return KINDS.get(kind, "of another kind")
    except (ValueError, IndexError):
        return ""


def last_day(certificate: bytes) -> str:
    """Return the day (YYYY-MM-DD, in UTC) on which a certificate ends; "" if this is no certificate."""
    try:
        *_, validity, _subject, _key = _fields(certificate)
        _, (tag, end) = _elements(validity)
        digits = end.decode("ascii")
        if tag == SHORT_TIME:  # years have two digits there, of 1950 to 2049
            digits = ("19" if digits >= "50" else "20") + digits
        return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}"
    except (ValueError, IndexError):
        return ""


def _fields(certificate: bytes) -> list[bytes]:
    """Return a certificate's number, signature, issuer, validity, subject and key. Raises ValueError or IndexError."""
    ((_, whole),) = _elements(certificate)
    (_, signed), *_ = _elements(whole)
    number, signature, issuer, validity, subject, key, *_ = [
        content for tag, content in _elements(signed) if tag != VERSION
    ]
    return [number, signature, issuer, validity, subject, key]


def _modulus(key: bytes) -> int:
    ((_, numbers),) = _elements(key)
    (_, modulus), *_ = _elements(numbers)
    return int.from_bytes(modulus, "big")


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Return tag and content of each element of a sequence."""
    while der:
        tag, length, start = der[0], der[1], 2
        if length >= 0x80:  # then it is the number of bytes of the length
            start += length - 0x80
            length = int.from_bytes(der[2:start], "big")
        yield tag, der[start : start + length]
        der = der[start + length :]
