"""Log-probabilities of bytes as those of the characters that they make."""

from collections.abc import Sequence

__all__ = ["whole_characters"]


def whole_characters(raw: bytes, logprobs: Sequence[float]) -> tuple[str, list[float], int]:
    """The complete characters at the beginning of some bytes of UTF-8, the log-probability of each, which is the sum of
    its bytes', and how many bytes they have."""
    begins = [place for place, byte in enumerate(raw) if byte & 0xC0 != 0x80]
    ends = [*begins[1:], len(raw)]
    if begins and not _is_whole(raw[begins[-1] :]):
        begins, ends = begins[:-1], ends[:-1]
    size = ends[-1] if ends else 0
    return raw[:size].decode(), [sum(logprobs[a:b]) for a, b in zip(begins, ends, strict=True)], size


def _is_whole(character: bytes) -> bool:
    try:
        character.decode()
    except UnicodeDecodeError:
        return False
    return True
