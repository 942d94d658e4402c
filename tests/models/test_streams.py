"""The streams read all of the training text in order, and nothing of the held-out part."""

import re
from pathlib import Path

import numpy as np
import pytest

from models.corpus import Corpus
from models.streams import Streams, require_length
from models.text import CorpusError


def test_each_stream_goes_on_where_it_ended_and_all_of_the_text_is_read() -> None:
    streams = Streams(np.arange(103), batch=4, sequence=8)
    windows = [streams.window(number) for number in range(4)]
    inputs = np.concatenate([x.numpy() for x, _ in windows])
    targets = np.concatenate([y.numpy() for _, y in windows])
    assert (inputs[1:] == targets[:-1]).all()
    assert (targets == (inputs + 1) % 103).all()
    assert set(inputs.flatten()) == set(range(103))


def test_validation_never_overlaps_training() -> None:
    corpus = Corpus("x", Path("x"), "a" * 900 + "b" * 100)
    ids = corpus.vocabulary.encode(corpus.text)[: corpus.split]
    assert corpus.split == 900
    assert all((window == 0).all() for number in range(300) for window in Streams(ids, 4, 32).window(number))


@pytest.mark.parametrize(("chars", "batch", "sequence"), [(1000, 64, 128), (90, 64, 128), (500, 1, 4096), (99, 99, 1)])
def test_too_little_text_for_the_sizes_names_sizes_that_would_do(chars: int, batch: int, sequence: int) -> None:
    with pytest.raises(CorpusError, match=f"{batch} streams of {sequence} characters need") as error:
        require_length(chars, batch, sequence)
    advised = re.search(r"--batch (\d+) --sequence (\d+) would do", str(error.value))
    assert advised
    require_length(chars, *map(int, advised.groups()))
