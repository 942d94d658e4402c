"""A text that cannot be used is refused in one line that says what is wrong and where."""

from pathlib import Path

import pytest

from models.data import text_files as text
from models.data.corpus import open_corpus
from models.data.text_files import CorpusError, text_blocks


def read(path: Path) -> str:
    return "".join(text_blocks(path))


@pytest.fixture(params=[1, 2, 3, 1 << 20])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that are read at a time: what belongs together may come in two blocks."""
    monkeypatch.setattr(text, "_BLOCK", request.param)
    return request.param


def test_a_byte_that_is_no_utf8_is_named_with_its_place(tmp_path: Path, block: int) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"first line\nsecond caf" + b"\xe9 and on\n")
    with pytest.raises(CorpusError, match=r"latin\.txt: not UTF-8 at byte 21 \(line 2\): 0xe9"):
        read(path)


@pytest.mark.parametrize("rest", [b"\xff", b"\xc3", b"\xf0\x9f\x98", b"\xc3("])
def test_the_place_counts_the_byte_order_mark(tmp_path: Path, rest: bytes, block: int) -> None:
    path = tmp_path / "marked.txt"
    path.write_bytes(b"\xef\xbb\xbfab" + rest)
    with pytest.raises(CorpusError, match="at byte 5 "):
        read(path)


def test_marks_and_line_ends_do_not_enter_the_vocabulary(tmp_path: Path, block: int) -> None:
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n\xe2\x82\xac\r")
    assert read(path) == "one\ntwo\nthree\n\u20ac\n"


def test_a_folder_is_its_text_files_in_order(tmp_path: Path, block: int) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "notes.md").write_text("no")
    assert read(tmp_path) == "first\nsecond\n"


def test_an_empty_text(tmp_path: Path) -> None:
    path = tmp_path / "little.txt"
    path.write_text("")
    with pytest.raises(CorpusError, match=r"little\.txt: empty"):
        open_corpus(str(path))


def test_a_path_that_is_not_there_and_a_folder_without_texts(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file, and none of the names shakespeare, tinyshakespeare"):
        open_corpus(str(tmp_path / "none.txt"))
    with pytest.raises(CorpusError, match=r"the folder holds no \.txt file"):
        open_corpus(str(tmp_path))
