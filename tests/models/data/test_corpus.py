"""A text is prepared once, as what it is; a text that changed is prepared anew; its parts do not overlap."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data import encoded_text
from models.data.corpus import open_corpus
from models.data.split import part_ends
from models.data.text_files import CorpusError


def _write(folder: Path, text: str, name: str = "text.txt") -> str:
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


@pytest.mark.parametrize("text", ["hello", "a", "\U0001f600 na\u00efve\n", "".join(map(chr, range(300)))])
def test_ids_spell_the_text(cache: Path, tmp_path: Path, text: str) -> None:
    data, text = _write(tmp_path, text), text.replace("\r", "\n")
    characters, of_bytes = open_corpus(data), open_corpus(data, vocabulary="bytes")
    assert characters.vocabulary.decode(characters.ids) == text
    assert characters.vocabulary.symbols == "".join(sorted(set(text)))
    assert of_bytes.ids.tolist() == list(text.encode())
    assert characters.sha256 == of_bytes.sha256


@pytest.mark.parametrize(("distinct", "dtype"), [(256, np.uint8), (257, np.uint16), (65_536, np.uint16)])
def test_a_character_takes_no_more_bytes_than_it_needs(
    cache: Path, tmp_path: Path, distinct: int, dtype: type[np.generic]
) -> None:
    corpus = open_corpus(_write(tmp_path, "".join(map(chr, range(0x10000, 0x10000 + distinct)))))
    assert corpus.ids.dtype == dtype
    assert len(corpus.vocabulary) == len(set(corpus.ids.tolist())) == distinct


def test_the_second_time_nothing_is_read(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _write(tmp_path, "to be or not to be\n")
    first = open_corpus(data)
    monkeypatch.setattr(encoded_text, "text_blocks", None)
    assert open_corpus(data).ids.tolist() == first.ids.tolist()


def test_a_text_that_changed_is_prepared_anew_and_takes_the_place(cache: Path, tmp_path: Path) -> None:
    """Also where neither its size nor its time of change differ."""
    data = _write(tmp_path, "to be\n")
    before = Path(data).stat()
    old = open_corpus(data)
    _write(tmp_path, "or be\n")
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    new = open_corpus(data)
    assert (old.vocabulary.decode(old.ids), new.vocabulary.decode(new.ids)) == ("to be\n", "or be\n")
    assert len(list(cache.rglob("*.ids"))) == 1


def test_a_file_more_in_a_folder_is_a_changed_text(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    _write(folder, "one", "a.txt")
    assert len(open_corpus(str(folder)).ids) == 4
    _write(folder, "two", "b.txt")
    assert len(open_corpus(str(folder)).ids) == 8


@pytest.mark.parametrize("damage", ["cut", "gone", "no json", "empty"])
def test_a_damaged_cache_is_made_again(cache: Path, tmp_path: Path, damage: str) -> None:
    data = _write(tmp_path, "to be or not to be\n")
    open_corpus(data)
    (ids,), (header,) = cache.rglob("*.ids"), cache.rglob("*.json")
    if damage == "gone":
        ids.unlink()
    elif damage == "no json":
        header.write_text("{")
    else:
        ids.write_bytes(ids.read_bytes()[:-1] if damage == "cut" else b"")
    corpus = open_corpus(data)
    assert corpus.vocabulary.decode(corpus.ids) == "to be or not to be\n"


def test_a_text_that_is_no_utf8_leaves_nothing_behind(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"x" * 3_000_000 + b"\xe9")
    with pytest.raises(CorpusError, match="not UTF-8 at byte 3,000,000"):
        open_corpus(str(path))
    assert not list(cache.rglob("*.*"))


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CHARSTREAM_CACHE", str(tmp_path / "file"))
    with pytest.raises(CorpusError, match=r"the cache cannot be written .*; set CHARSTREAM_CACHE"):
        open_corpus(_write(tmp_path, "to be"))


def test_every_text_starts_after_a_newline_or_its_most_common_character(cache: Path, tmp_path: Path) -> None:
    assert open_corpus(_write(tmp_path, "aab " * 40)).start_text == "a"
    assert open_corpus(_write(tmp_path, "aab\n" * 40)).start_text == "\n"
    assert open_corpus(_write(tmp_path, "aab " * 40), vocabulary="bytes").start_text == "\n"


def test_the_parts_make_the_text_and_share_nothing(cache: Path, tmp_path: Path) -> None:
    corpus = open_corpus(_write(tmp_path, "a" * 900 + "b" * 70 + "c" * 30), split="0.9,0.07,0.03")
    spelled = [set(corpus.vocabulary.decode(part)) for part in (corpus.training, corpus.validation, corpus.test)]
    assert spelled == [{"a"}, {"b"}, {"c"}]


def test_all_of_a_text_can_be_trained_on(cache: Path, tmp_path: Path) -> None:
    corpus = open_corpus(_write(tmp_path, "hello"), split="1")
    assert (len(corpus.training), len(corpus.validation), len(corpus.test)) == (5, 0, 0)


@given(st.integers(1, 10**9), st.integers(1, 99))
def test_a_share_is_exact(symbols: int, percent: int) -> None:
    first, second, last = part_ends(f"0.{percent:02},{1 - percent / 100:.2f}", symbols)
    assert first == symbols * percent // 100
    assert second == last == symbols


@pytest.mark.parametrize(
    "split", ["", "0.9", "0.9,0.2", "0.9;0.1", "0,1", "1.1,-0.1", "a,b", "nan", "1/0", ".7,.1,.1,.1"]
)
def test_shares_that_make_no_parts_are_refused_in_words(cache: Path, tmp_path: Path, split: str) -> None:
    with pytest.raises(CorpusError, match="expected the shares of training, validation and test, which add up to 1"):
        open_corpus(_write(tmp_path, "hello"), split=split)
