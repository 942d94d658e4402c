"""A text that cannot be used is refused in one line that says what is wrong and where."""

import gzip
import os
import random
import threading
from pathlib import Path

import pytest

from bundle.vocabulary import Unit
from models.data import text_files as text
from models.data.corpus import Corpus, open_corpus
from models.data.text_files import CorpusError, TextForm, text_blocks


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
    with pytest.raises(CorpusError, match=r"no such file, and none of the names shakespeare, tinyshakespeare$"):
        open_corpus(str(tmp_path / "none.txt"))
    with pytest.raises(CorpusError, match=r"the nearest is tinyshakespeare$"):
        open_corpus("tinyshakespear")
    with pytest.raises(CorpusError, match=r"the folder holds no \.txt file"):
        open_corpus(str(tmp_path))


FIELD = Path(__file__).parents[3].parent / "shared" / "field"


def test_hidden_files_and_folders_named_txt_are_no_text(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("notebook/.ipynb_checkpoints", "notebook/drafts.txt"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "notebook/input.txt").write_text("the text")
    (tmp_path / "notebook/.ipynb_checkpoints/input-checkpoint.txt").write_text("the old text")
    (tmp_path / "notebook/drafts.txt/b.txt").write_text("drafts")
    corpus = open_corpus(str(tmp_path / "notebook"))
    assert spell(corpus) == "drafts\nthe text\n"
    assert "passed over, as names with a dot first are hidden: " in (said := capsys.readouterr().err)
    assert "input-checkpoint.txt" in said


def test_a_file_under_several_names_is_in_the_text_once(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Debian's fortunes have names with and without an ending; else the validation part would have been learnt."""
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems/a.txt").write_text("the text")
    (tmp_path / "poems/b.txt").symlink_to("a.txt")
    (tmp_path / "poems/c.txt").hardlink_to(tmp_path / "poems/a.txt")
    assert spell(open_corpus(str(tmp_path / "poems"))) == "the text\n"
    said = capsys.readouterr().err
    assert f"links lead to files that are in the text already: {tmp_path / 'poems/b.txt'} and 1 more" in said


def test_a_pattern_an_encoding_and_gzip(cache: Path, tmp_path: Path) -> None:
    text = "caf\u00e9\nna\u00efve\n"
    (tmp_path / "a.md").write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
    (tmp_path / "b.txt").write_text("not this one")
    assert spell(open_corpus(str(tmp_path), form=TextForm("*.md", "utf-16"))) == text
    (tmp_path / "c.gz").write_bytes(gzip.compress(text.encode()))
    assert spell(open_corpus(str(tmp_path / "c.gz"))) == text
    (tmp_path / "half.gz").write_bytes(gzip.compress(random.randbytes(9999))[:5000])
    with pytest.raises(CorpusError, match=r"half\.gz: not whole, or damaged"):
        open_corpus(str(tmp_path / "half.gz"))


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (TextForm("*.md"), r"the folder holds no \.md file; --glob takes others"),
        (TextForm("**/"), r"the folder holds no \*\*/ file; --glob takes others"),
        (TextForm("/etc/*"), r"--glob /etc/\*: no pattern"),
        (TextForm(encoding="hex"), "--encoding hex: no encoding of texts"),
        (TextForm(encoding="klingon"), "--encoding klingon: no encoding of texts"),
        (TextForm(encoding="ascii"), r"not ascii at byte 3 .*name its encoding by --encoding"),
    ],
)
def test_a_form_that_does_not_fit_is_refused(form: TextForm, reason: str, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(CorpusError, match=reason):
        open_corpus(str(tmp_path), form=form)


@pytest.mark.parametrize("unit", ["characters", "bytes"])
def test_halves_of_characters_are_no_text(unit: Unit, cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"ab\\ud800")
    form = TextForm(encoding="unicode_escape")
    if unit == "bytes":  # which are taken as they are
        assert len(open_corpus(str(file), vocabulary=unit, form=form).ids) == 8
        return
    with pytest.raises(CorpusError, match="not unicode_escape"):
        open_corpus(str(file), vocabulary=unit, form=form)


@pytest.mark.parametrize("data", [b"\xff\xfe\r\n\x00\x80" * 9, b"caf\xe9\r\n", bytes(range(256))])
def test_bytes_take_any_file_as_it_is(data: bytes, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "any").write_bytes(data)
    assert spell(open_corpus(str(tmp_path / "any"), vocabulary="bytes")).encode("latin-1") == data


def test_a_device_is_refused_at_once(cache: Path) -> None:
    with pytest.raises(CorpusError, match="a pipe or a device, which cannot be read twice: write the text into a"):
        open_corpus(os.devnull)


def test_a_pipe_is_read_once_and_kept(cache: Path, tmp_path: Path) -> None:
    """So the text may be opened again, and by its path when a run goes on; without it the message says what to do."""
    pipe, text = tmp_path / "pipe", "to be or not to be\n" * 20
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    first, again = open_corpus(str(pipe)), open_corpus(str(pipe))
    writer.join()
    assert spell(first) == spell(again) == spell(open_corpus(str(first.path))) == text
    assert (first.name, first.path.parent) == ("stdin", cache)
    first.path.unlink()
    with pytest.raises(CorpusError, match="came through a pipe, and the cache has it no more: --data FILE gives it"):
        open_corpus(str(first.path))


@pytest.mark.skipif(not FIELD.is_dir(), reason="needs ../shared/field")
@pytest.mark.parametrize(("name", "characters"), [("windows.txt", 5800), ("notebook", 5800), ("folder", 11600)])
def test_texts_that_users_brought(name: str, characters: int, cache: Path) -> None:
    corpus = open_corpus(str(FIELD / name))
    assert len(corpus.ids) == characters
    assert not {"\ufeff", "\r"} & set(corpus.vocabulary.symbols)


def spell(corpus: Corpus) -> str:
    return corpus.vocabulary.tokens_to_symbols(corpus.ids)
