"""Fine-tuning begins with what another run knows, character by character."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.train import main
from models.training.checkpoint import CheckpointError, load
from tests.models.conftest import SMALL

Train = Callable[..., Path]
# A learning rate at which one step changes nothing that a test would see.
STILL = ("--steps", "1", "--learning-rate", "1e-12", "--weight-decay", "0")


@pytest.mark.parametrize("reads", ["embedding", "onehot"])
def test_rows_are_matched_by_character(train: Train, tmp_path: Path, reads: str) -> None:
    first = train("--steps", "30", "--input", reads)
    text = tmp_path / "other.txt"
    text.write_text("Queens, and Zebras at night!\n" * 300)
    flags = ["--data", str(text), "--out", str(tmp_path / "second"), *SMALL, "--input", reads, *STILL]
    assert main([*flags, "--init-from", str(first)]) == 0
    old, new = load(first), load(tmp_path / "second")
    both = sorted(set(old.vocabulary.symbols) & set(new.vocabulary.symbols))
    assert "\n" in both
    assert len(both) < len(new.vocabulary)
    there, here = (torch.from_numpy(trained.vocabulary.encode("".join(both))) for trained in (old, new))
    torch.testing.assert_close(new.model.head.weight[here], old.model.head.weight[there])
    torch.testing.assert_close(new.model.layers[0].weight_hh, old.model.layers[0].weight_hh)
    unit = torch.eye(len(new.vocabulary))[here], torch.eye(len(old.vocabulary))[there]
    read = [
        (model.embedding.weight[ids] if reads == "embedding" else rows) @ model.layers[0].weight_ih.T
        for model, ids, rows in zip((new.model, old.model), (here, there), unit, strict=True)
    ]
    torch.testing.assert_close(*read)


@pytest.mark.parametrize("how", [("--ema", "0.999"), ("--precision", "fp64")])
def test_without_a_step_worth_the_name_it_ends_where_it_began(train: Train, how: tuple[str, ...]) -> None:
    first = train("--steps", "3")
    second = train(*STILL, "--steps", "2", *how, "--init-from", str(first), name="second")
    for there, here in zip(load(first).model.parameters(), load(second).model.parameters(), strict=True):
        torch.testing.assert_close(here, there)


@pytest.mark.parametrize(
    ("was", "wanted"),
    [
        (("--activation", "tanh"), ("--activation", "relu")),
        (("--form", "post"), ("--form", "pre")),
        (("--recurrent-norm", "none"), ("--recurrent-norm", "layer")),
    ],
)
def test_a_kind_that_no_shape_tells_is_refused(
    train: Train, was: tuple[str, ...], wanted: tuple[str, ...], tmp_path: Path
) -> None:
    own = ("--cell", "rnn", "--layers", "2", "--steps", "1")
    first = train(*own, *was)
    name = was[0].removeprefix("--")
    with pytest.raises(CheckpointError, match=f"its {name} is .*, here it is .*that it was trained with"):
        train(*own, *wanted, "--init-from", str(first), name="second")
    assert not (tmp_path / "second").exists()


def test_a_kind_that_is_not_given_is_the_sources(train: Train) -> None:
    own = ("--layers", "2", "--steps", "1")
    first = train(*own, "--cell", "rnn", "--activation", "softplus", "--form", "pre", "--norm", "layer", "--residual")
    second = train(*own, "--init-from", str(first), name="second")
    assert load(second).model.config.shape == load(first).model.config.shape


def test_another_kind_of_model_is_refused(
    train: Train, verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train("--steps", "1")
    flags = ["--data", str(verse), "--out", str(tmp_path / "second"), *SMALL, "--init-from", str(first)]
    with pytest.raises(SystemExit, match="2"):
        main([*flags, "--hidden", "16", "--steps", "1"])
    assert "its head.weight is [V, 32], here it is [V, 16]" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*flags, "--vocabulary", "bytes", "--steps", "1"])
    assert "its vocabulary is of characters, this one of bytes" in capsys.readouterr().err
