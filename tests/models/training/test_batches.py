"""The streams read all of the training text in order, epoch after epoch, with noise where it is wanted."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.data.text_files import CorpusError
from models.training.batches import Streams, require_length
from models.training.settings import TrainSettings

CHARS = 1003
NOISES: list[dict[str, Any]] = [
    {},
    {"random_offsets": True, "replace_rate": 0.3, "drop_rate": 0.1},
    {"shuffle": True, "restart_every": 3, "replace_rate": 0.3, "drop_rate": 0.1},
]


def _streams(batch: int = 4, sequence: int = 8, part: slice = slice(None), **settings: Any) -> Streams:
    """Of a text whose characters are their places."""
    given = TrainSettings(out=Path("run"), batch=batch, sequence=sequence, **settings)
    return Streams(np.arange(CHARS), CHARS, given, part)


def _windows(streams: Streams, count: int) -> tuple[np.ndarray, np.ndarray]:
    windows = [streams.window(number) for number in range(count)]
    return np.concatenate([x.numpy() for x, _ in windows]), np.concatenate([y.numpy() for _, y in windows])


def test_each_stream_reads_its_stripe_window_after_window_and_then_again() -> None:
    streams = _streams()
    inputs, targets = _windows(streams, 2 * streams.windows)
    assert (targets == inputs + 1).all()
    first, again = np.split(inputs, 2)
    assert (first == again).all()
    assert (np.diff(first, axis=0) == 1).all()
    assert len(set(first.flatten())) == first.size > CHARS - 4 * 8
    assert [streams.begins_epoch(number) for number in (0, 1, streams.windows)] == [True, False, True]


def test_one_stream_reads_the_whole_text_as_the_lectures_program_does() -> None:
    streams = _streams(batch=1, sequence=25)
    assert streams.windows == (CHARS - 1) // 25
    assert _streams(batch=1, sequence=5000).sequence == CHARS - 1


def test_random_offsets_begin_each_epoch_elsewhere_and_read_all_of_the_text() -> None:
    streams = _streams(random_offsets=True)
    inputs, targets = _windows(streams, 3 * streams.windows)
    epochs = np.split(inputs, 3)
    assert len({int(epoch[0, 0]) for epoch in epochs}) == 3
    assert (targets == (inputs + 1) % CHARS).all()
    for epoch in epochs:
        assert (np.diff(epoch, axis=0) % CHARS == 1).all()
        assert len(set(epoch.flatten())) == epoch.size


def test_shuffled_streams_share_pieces_of_the_text_and_read_each_once_in_an_epoch() -> None:
    streams = _streams(shuffle=True, restart_every=5)
    inputs, targets = _windows(streams, 100)
    assert (targets == (inputs + 1) % CHARS).all()
    # Stream b begins a piece where (b + number) % 5 is 0, as the trainer's states do: the first ones of all but stream
    # 0 are cut short there.
    turns = (np.arange(100)[:, None] + np.arange(4)) // 5
    begun = [(inputs[8 * number, b], turns[number, b] * 4 + b) for number in range(100) for b in range(4)]
    pieces = {int(turn): int(begin) for begin, turn in reversed(begun)}
    count = (CHARS - 1) // 40
    whole = [pieces[turn] for turn in range(4, 2 * count)]  # of two epochs, but what was cut short
    second = {(begin - whole[count]) % CHARS for begin in whole[count - 4 :]}
    assert len(second) == count
    assert {begin % 40 for begin in second} <= {0, CHARS % 40}
    assert whole[: count - 4] != whole[count - 4 :][: count - 4]
    for b in range(4):
        jumps = np.flatnonzero(np.diff(inputs[:, b]) % CHARS != 1) + 1
        assert all((jump // 8 + b) % 5 == 0 and jump % 8 == 0 for jump in jumps)
    assert [streams.begins_epoch(number) for number in (0, 1, streams.windows)] == [True, False, False]


@pytest.mark.parametrize("chars", [9, 40])
def test_a_text_shorter_than_a_piece_is_read_around(chars: int) -> None:
    given = TrainSettings(out=Path("run"), batch=1, sequence=8, restart_every=32, shuffle=True)
    inputs, targets = _windows(Streams(np.arange(chars), chars, given), 40)
    assert (targets == (inputs + 1) % chars).all()
    assert set(inputs.flatten()) == set(range(chars))


def test_a_share_of_the_characters_is_replaced_and_the_targets_are_not() -> None:
    inputs, targets = _windows(_streams(replace_rate=0.2), 60)
    assert (inputs != targets - 1).mean() == pytest.approx(0.2, abs=0.05)
    assert (targets == _windows(_streams(), 60)[1]).all()


def test_a_share_of_the_characters_is_left_out_and_the_targets_are_the_texts_next() -> None:
    streams = _streams(batch=2, sequence=10, drop_rate=0.2)
    inputs, targets = _windows(streams, streams.windows)
    assert (targets == inputs + 1).all()
    steps = np.diff(inputs, axis=0)
    assert steps.min() == 1
    assert inputs.shape[0] / (inputs[-1] - inputs[0] + 1).mean() == pytest.approx(0.8, abs=0.02)
    assert not (steps[:, 0] == steps[:, 1]).all()


@pytest.mark.parametrize("noise", NOISES)
def test_processes_read_what_one_process_reads(noise: dict[str, Any]) -> None:
    whole, parts = _streams(**noise), [_streams(part=slice(begin, begin + 2), **noise) for begin in (0, 2)]
    for number in (0, 5, whole.windows + 3):
        for side in (0, 1):
            joint = np.concatenate([part.window(number)[side].numpy() for part in parts], axis=1)
            assert (joint == whole.window(number)[side].numpy()).all()


@pytest.mark.parametrize("noise", NOISES)
def test_windows_cut_from_a_text_on_a_device_are_those_cut_from_the_file(noise: dict[str, Any]) -> None:
    given = TrainSettings(out=Path("run"), batch=4, sequence=8, **noise)
    ids = np.random.default_rng(0).integers(0, 200, CHARS).astype(np.uint8)
    part = slice(1, 3)
    mapped = Streams(ids, 200, given, part)
    uploaded = Streams(ids, 200, given, part, torch.from_numpy(ids))
    for number in (0, 5, mapped.windows + 3):
        for one, other in zip(mapped.window(number), uploaded.window(number), strict=True):
            assert one.dtype == torch.int64
            assert one.equal(other)


def test_another_seed_is_other_noise() -> None:
    a, b = (_streams(replace_rate=0.3, seed=seed).window(3)[0] for seed in (0, 1))
    assert not a.equal(b)


@pytest.mark.parametrize("drop_rate", [0.0, 0.3])
@pytest.mark.parametrize(("chars", "batch", "sequence"), [(1000, 64, 128), (90, 64, 128), (500, 1, 4096), (99, 99, 1)])
def test_too_little_text_for_the_sizes_names_sizes_that_would_do(
    chars: int, batch: int, sequence: int, drop_rate: float
) -> None:
    with pytest.raises(CorpusError, match=f"{batch} streams of {sequence} characters need") as error:
        require_length(chars, batch, sequence, drop_rate)
    advised = re.search(r"--batch (\d+) --sequence (\d+) would do", str(error.value))
    assert advised
    require_length(chars, *map(int, advised.groups()), drop_rate)


@pytest.mark.parametrize("chars", [0, 1])
def test_no_text_to_speak_of(chars: int) -> None:
    with pytest.raises(CorpusError, match=f"has {chars} character.*2 are the least"):
        require_length(chars, 64, 128)


@pytest.mark.parametrize("noises", NOISES)
def test_what_teachers_say_is_of_the_characters_that_are_predicted(noises: dict[str, Any]) -> None:
    given = TrainSettings(out=Path("run"), batch=4, sequence=8, **noises)
    taught = torch.arange(CHARS)[:, None].half()
    streams = Streams(np.arange(CHARS), CHARS, given, slice(1, 3), taught=taught)
    for number in range(2 * streams.windows):
        rows = streams.taught_window(number)
        assert rows is not None
        assert torch.equal(rows[..., 0].long(), streams.window(number)[1])
