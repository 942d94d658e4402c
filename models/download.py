"""Downloads over HTTP that are whole, or refused."""

import hashlib
import http.client
import string
import time
import urllib.error
import urllib.parse
import urllib.request

from models.progress import ProgressBar, say
from models.text import CorpusError

__all__ = ["download"]

ATTEMPTS = 3
PAUSE_SECONDS = 0.5
TIMEOUT_SECONDS = 30.0
_BLOCK = 1 << 16


def download(url: str, sha256: str | None = None) -> bytes:
    """The bytes at an http(s) address, fetched again if they came short or, where `sha256` is known, wrong.

    Raises:
        CorpusError: after the last attempt.
    """
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            say(f"{url}: {reason}; trying again")
            time.sleep(PAUSE_SECONDS)
        try:
            data = _fetch(url)
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
            got = hashlib.sha256(data).hexdigest()
            if sha256 in (None, got):
                return data
            reason = f"what came has the sha256 {got[:12]}..., expected {sha256[:12]}..."
    raise CorpusError(" ".join(f"cannot download {url}: {reason}".split()))


def _fetch(url: str) -> bytes:
    """One attempt. Raises OSError or HTTPException, also when the connection ends early; ValueError: no address."""
    with urllib.request.urlopen(_quoted(url), timeout=TIMEOUT_SECONDS) as response:
        total = _length(response.headers.get("Content-Length"))
        blocks = []
        with ProgressBar("download", "B", total) as bar:
            while block := response.read(_BLOCK):
                blocks.append(block)
                bar.advance(len(block))
    data = b"".join(blocks)
    if total is not None and len(data) != total:
        raise OSError(f"the connection ended after {len(data):,} of {total:,} bytes")
    return data


def _quoted(url: str) -> str:
    """The address as HTTP wants it: what is not ASCII, as %XX."""
    return urllib.parse.quote(url, safe=string.punctuation)


def _length(header: str | None) -> int | None:
    if not header:
        return None
    if not header.isdecimal():
        raise OSError(f"the server says Content-Length: {header}")
    return int(header)
