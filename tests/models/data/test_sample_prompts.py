"""The prompts that go with a model occur in the text that it was not trained on, and need no quoting to be tried."""

from pathlib import Path

import pytest

from bundle.vocabulary import Unit
from models.data.corpus import open_corpus
from models.data.sample_prompts import COUNT, MOST_CHARS, sample_prompts

VERSES = {
    "a play": "ROMEO:\nIs the day so young?\n\nBENVOLIO:\nBut new struck nine, and not a moment earlier.\n\n" * 60,
    "no capitals": "all in small letters\nwithout one capital letter\n" * 60,
    "Chinese": "子曰：「學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？」\n曾子曰：「吾日三省吾身」\n" * 60,
    "Arabic": "ابجد هوز حطي كلمن\nسعفص قرشت ثخذ ضظغ\n" * 60,
    "source code": '\tif (done) {\n\t\tprintf("%d\\n", -1);\n\t}\n' * 60,
    "one line": "to be or not to be, that is the question " * 60,
    "one symbol": "a" * 3000,
    "one sign": "-" * 3000,
    "two characters": "ab",
}


@pytest.mark.parametrize("unit", ["characters", "bytes"])
@pytest.mark.parametrize("text", VERSES.values(), ids=VERSES)
def test_prompts_are_of_the_held_out_text(cache: Path, tmp_path: Path, text: str, unit: Unit) -> None:
    (tmp_path / "text.txt").write_text(text)
    corpus = open_corpus(str(tmp_path / "text.txt"), vocabulary=unit)
    held_out = corpus.vocabulary.decode(corpus.validation)
    prompts = sample_prompts(corpus.validation, corpus.vocabulary)
    assert 1 <= len(prompts) <= COUNT
    for prompt in prompts:
        assert prompt in held_out
        assert 0 < len(prompt) <= MOST_CHARS
        assert "\n" not in prompt
        assert "\\" not in prompt
        corpus.vocabulary.encode(prompt)


def test_prompts_begin_as_lines_do_and_end_with_a_word(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("  - He was not of an age,\n  - but for all time! Soul of the Age!\n" * 60)
    corpus = open_corpus(str(tmp_path / "text.txt"))
    prompts = sample_prompts(corpus.ids, corpus.vocabulary)
    assert set(prompts) == {"He was not of an age,", "but for all time! Soul"}
