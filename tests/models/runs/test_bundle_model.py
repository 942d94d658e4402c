"""A bundle is the whole model: training goes on from it, and it is exported anew."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bundle.write import write_bundle
from models.runs.bundle_model import load_model, model_of_bundle
from models.train import main
from models.training.checkpoint import CheckpointError, Trained, load
from tests.conftest import OTHER_CELLS, Files, tiny_model

# Sizes of windows at which a step takes a moment, and a step that changes nothing that a test would see.
WINDOWS = ("--batch", "4", "--sequence", "16", "--precision", "fp32")
STILL = ("--steps", "1", "--learning-rate", "1e-12", "--weight-decay", "0")


def _require_equal(found: Trained, expected: Trained) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, len(expected.vocabulary), (12, 3))
    state = tuple(torch.rand_like(tensor) - 0.5 for tensor in expected.model.initial_state(3))
    with torch.no_grad():
        torch.testing.assert_close(found.model(ids, state), expected.model(ids, state), atol=1e-4, rtol=1e-4)
    assert (found.vocabulary, found.start_text) == (expected.vocabulary, expected.start_text)


@pytest.mark.parametrize("name", [name for name in OTHER_CELLS if name != "rnn, many characters"])
def test_its_model_computes_what_was_exported(name: str, cell_files: Callable[[str], Files], tmp_path: Path) -> None:
    write_bundle(tmp_path / "cell", *cell_files(name))
    _require_equal(load_model(tmp_path / "cell"), OTHER_CELLS[name]())


def test_training_goes_on_from_a_bundle_without_a_word_about_its_model(
    tiny: Trained, bundles: Path, verse: Path, tmp_path: Path
) -> None:
    """The text has fewer characters than the model: those it shares are the same."""
    flags = ("--data", str(verse), "--out", str(tmp_path / "mine"), "--init-from", str(bundles / "tiny"))
    assert main([*flags, *WINDOWS, *STILL]) == 0
    mine = load(tmp_path / "mine")
    rows = torch.from_numpy(tiny.vocabulary.encode(mine.vocabulary.symbols))
    torch.testing.assert_close(mine.model.head.weight, tiny.model.head.weight[rows])
    torch.testing.assert_close(mine.model.layers[1].weight_hh, tiny.model.layers[1].weight_hh)
    assert main(["--out", str(tmp_path / "mine"), "--resume"]) == 0


def test_a_size_that_is_given_is_meant(
    bundles: Path, verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--data", str(verse), "--out", str(tmp_path / "mine"), "--init-from", str(bundles / "tiny"))
    with pytest.raises(SystemExit, match="2"):
        main([*flags, *WINDOWS, *STILL, "--hidden", "32"])
    assert "its head.weight is [V, 64], here it is [V, 32]" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_a_model_that_comes_with_charstream_learns_another_text(verse: Path, tmp_path: Path) -> None:
    """By name, and without a word about its sizes."""
    flags = ("--data", str(verse), "--steps", "10", "--learning-rate", "3e-3", "--dropout", "0", *WINDOWS)
    assert main([*flags, "--init-from", "pretrained", "--out", str(tmp_path / "adapted")]) == 0
    assert load(tmp_path / "adapted").record.validation_nats["carried"] < 2.2


def test_a_folder_that_is_neither_run_nor_bundle_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match="manifest"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        load_model(tmp_path / "nothing")


def test_weights_of_other_names_are_refused(tiny_files: Files, tmp_path: Path) -> None:
    manifest, files = tiny_files
    other = tiny_model(cell="gru")
    wrong = manifest.model_copy(update={"model": other.model.config.shape})
    with pytest.raises(CheckpointError, match=r"step\.onnx has other weights"):
        model_of_bundle(wrong, files)
