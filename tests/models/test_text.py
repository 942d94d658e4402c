"""A text that cannot be used is refused in one line that says what is wrong and where."""

from pathlib import Path

import pytest

from models.corpus import Corpus, open_corpus
from models.text import CorpusError, read_text


def test_a_byte_that_is_no_utf8_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"first line\nsecond caf" + b"\xe9 and on\n")
    with pytest.raises(CorpusError, match=r"latin\.txt: not UTF-8 at byte 21 \(line 2\): 0xe9"):
        read_text(path)


def test_the_place_counts_the_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "marked.txt"
    path.write_bytes(b"\xef\xbb\xbfab\xff")
    with pytest.raises(CorpusError, match="at byte 5 "):
        read_text(path)


def test_marks_and_line_ends_do_not_enter_the_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(path) == "one\ntwo\nthree\n"


def test_a_folder_is_its_text_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "notes.md").write_text("no")
    assert read_text(tmp_path) == "first\nsecond\n"


@pytest.mark.parametrize(
    ("content", "reason"), [("", "empty"), ("short", "only 5 characters, at least 100 are needed")]
)
def test_too_little_text(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "little.txt"
    path.write_text(content)
    with pytest.raises(CorpusError, match=reason):
        open_corpus(str(path))


def test_a_path_that_is_not_there_and_a_folder_without_texts(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file, and none of the names shakespeare, tinyshakespeare"):
        open_corpus(str(tmp_path / "none.txt"))
    with pytest.raises(CorpusError, match=r"the folder holds no \.txt file"):
        open_corpus(str(tmp_path))


def test_a_text_without_newlines_starts_after_its_most_common_character() -> None:
    assert Corpus("x", Path("x"), "aab " * 40).start_text == "a"
    assert Corpus("x", Path("x"), "aab\n" * 40).start_text == "\n"
