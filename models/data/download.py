"""Downloads over HTTP that are whole, or refused."""

import hashlib
import http.client
import string
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import BinaryIO

from models.data.text_files import CorpusError
from models.terminal import ProgressBar, say

__all__ = ["download"]

ATTEMPTS = 3
PAUSE_SECONDS = 0.5
TIMEOUT_SECONDS = 30.0
_BLOCK = 1 << 16


def download(url: str, file: BinaryIO, sha256: str | None = None) -> None:
    """Writes what is at an http(s) address; fetched again if it came short or, where `sha256` is known, wrong.

    Raises:
        CorpusError: after the last attempt.
    """
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            say(f"{url}: {reason}; trying again")
            time.sleep(PAUSE_SECONDS)
        try:
            file.seek(0)
            file.truncate()
            got = _fetch(url, file)
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"the server answers {error.code} {error.reason}"
            if error.code < 500:
                break
        except ValueError as error:
            reason = f"not an address: {error}"
            break
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        else:
            if sha256 in (None, got):
                return
            reason = f"what came has the sha256 {got[:12]}..., expected {sha256[:12]}..."
    raise CorpusError(" ".join(f"cannot download {url}: {reason}".split()))


def _fetch(url: str, file: BinaryIO) -> str:
    """One attempt; returns the sha256 of what came.

    Raises OSError or HTTPException, also when the connection ends early; ValueError: no address.
    """
    with urllib.request.urlopen(_quoted(url), timeout=TIMEOUT_SECONDS) as response:
        total = _length(response.headers.get("Content-Length"))
        digest, size = hashlib.sha256(), 0
        with ProgressBar("download", "B", total) as bar:
            while block := response.read(_BLOCK):
                file.write(block)
                digest.update(block)
                size += len(block)
                bar.advance(len(block))
    if total is not None and size != total:
        raise OSError(f"the connection ended after {size:,} of {total:,} bytes")
    return digest.hexdigest()


def _quoted(url: str) -> str:
    """The address as HTTP wants it: what is not ASCII, as %XX."""
    return urllib.parse.quote(url, safe=string.punctuation)


def _length(header: str | None) -> int | None:
    if not header:
        return None
    if not header.isdecimal():
        raise OSError(f"the server says Content-Length: {header}")
    return int(header)
