"""A checkpoint is read back as it was, holds no code, and says what is wrong with it."""

import json
import os
import resource
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from models.network.char_lm import ModelConfig
from models.training.checkpoint import CheckpointError, Progress, load, read, save
from tests.models.conftest import flags_of


@pytest.fixture
def run(train: Callable[..., Path]) -> Path:
    return train("--steps", "3")


def test_a_run_is_its_best_checkpoint_and_each_file_loads_alone(run: Path) -> None:
    tensors = next(run.glob("best.*.safetensors"))
    trained, by_json, by_tensors = load(run), load(run / "best.json"), load(tensors)
    assert not trained.model.training
    assert trained.start_text == "\n"
    assert trained.record.steps == 3
    assert set(trained.record.validation_nats) == {"carried"}
    for other in (by_json, by_tensors):
        assert all(map(torch.equal, trained.model.state_dict().values(), other.model.state_dict().values()))
    assert load(run / "last.json").model.config == trained.model.config


def test_every_cell_comes_back_as_the_model_that_was_trained(train: Callable[..., Path], cell: dict[str, str]) -> None:
    run = train("--steps", "3", "--layers", "2", *flags_of(cell))
    header, tensors = read(run)
    trained, dropout = load(run), dict.fromkeys(("dropout", "dropout_input", "dropout_output"), 0.3)
    assert (
        trained.model.config
        == header.model
        == ModelConfig(**cell, **dropout, vocab=len(header.symbols), layers=2, hidden=32, embedding=8)
    )
    weights = {f"model.{name}": tensor for name, tensor in trained.model.state_dict().items()}
    assert weights.keys() == tensors.keys()
    assert all(torch.equal(weights[name], tensors[name]) for name in tensors)


def test_no_file_of_a_run_is_a_pickle(run: Path) -> None:
    assert {path.suffix or path.name for path in run.iterdir()} == {".json", ".jsonl", ".safetensors", ".lock"}
    assert (run / ".lock").read_text() == str(os.getpid())


def test_an_older_checkpoint_leaves_no_file_behind(run: Path) -> None:
    assert len(list(run.glob("*.safetensors"))) == len(list(run.glob("*.json"))) == 2


def test_what_a_killed_run_half_wrote_goes_with_the_next_checkpoint(run: Path) -> None:
    (run / ".last.0123456789ab.safetensors.new").write_bytes(b"half")
    save(run, "last", *read(run / "last.json"))
    assert not list(run.glob("*.new"))


def test_a_full_disk_keeps_the_old_checkpoint_and_no_half_of_the_new_one(run: Path) -> None:
    header, tensors = read(run / "last.json")
    before = sorted(run.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"last\.[0-9a-f]{12}\.safetensors'$"):
            save(run, "last", header, {**tensors, "more": torch.ones(1)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(run.iterdir()) == before
    assert read(run / "last.json")[1].keys() == tensors.keys()


def test_a_users_own_file_of_a_similar_name_stays(run: Path) -> None:
    (run / "last.mine.safetensors").write_bytes(b"mine")
    save(run, "last", *read(run / "last.json"))
    assert (run / "last.mine.safetensors").read_bytes() == b"mine"


def test_a_checkpoint_is_read_while_the_run_writes_the_next_ones(run: Path) -> None:
    header, tensors = read(run / "last.json")
    first = next(iter(tensors))
    ended = threading.Event()

    def write() -> None:
        try:
            for number in range(50):
                save(run, "last", header, {**tensors, first: torch.full_like(tensors[first], number)})
        finally:
            ended.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not ended.is_set():
            assert read(run / "last.json")[1].keys() == tensors.keys()
        writing.result()
    assert torch.all(read(run / "last.json")[1][first] == 49)


def test_damaged_tensors_are_refused(run: Path) -> None:
    path = next(run.glob("best.*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged, its sha256"):
        load(run)


@pytest.mark.parametrize("content", ["", "{}", '{"format": 2}', "[1, 2]", "\x00"])
def test_a_foreign_file_is_refused_in_one_line(run: Path, content: str) -> None:
    (run / "best.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"best\.json: not a checkpoint of charstream") as error:
        load(run)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_version_says_so(run: Path) -> None:
    header = json.loads((run / "best.json").read_text())
    (run / "best.json").write_text(json.dumps(header | {"format": 1}))
    with pytest.raises(CheckpointError, match=r"\(format: format 1 is not supported.*train it again\)$"):
        load(run)


def test_tensors_outside_the_run_are_not_followed(run: Path) -> None:
    header = json.loads((run / "best.json").read_text())
    (run / "best.json").write_text(json.dumps(header | {"tensors": "../other.safetensors"}))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load(run)


@pytest.mark.parametrize("name", ["", "none", "none.json", "none.safetensors"])
def test_nothing_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        load(tmp_path / name)


def test_tensors_of_another_model_are_refused(run: Path) -> None:
    header = json.loads((run / "best.json").read_text())
    header["model"]["hidden"] = 33
    (run / "best.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match="do not fit the model"):
        load(run)


def test_weights_of_other_names_are_refused_in_one_line(run: Path) -> None:
    header, tensors = read(run)
    save(run, "best", header, {name.replace("layers.", "lstm."): tensor for name, tensor in tensors.items()})
    with pytest.raises(CheckpointError, match="do not fit the model") as error:
        load(run)
    assert "\n" not in str(error.value)


def test_an_activation_that_the_cell_has_not_is_refused(run: Path) -> None:
    header = json.loads((run / "best.json").read_text())
    header["model"]["activation"] = "sigmoid"
    (run / "best.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match=r"not a checkpoint of charstream .*only the cell rnn has a choice"):
        load(run)


def test_progress_survives_to_the_bit(run: Path) -> None:
    progress = read(run / "last.json")[0].progress
    assert progress == Progress.model_validate_json(progress.model_dump_json())
    assert progress.step == progress.budget == 3


def test_a_run_that_knows_no_best_is_its_last_checkpoint(run: Path) -> None:
    for file in run.glob("best.*"):
        file.unlink()
    assert load(run).record == load(run / "last.json").record
