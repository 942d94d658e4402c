"""charstream export and verify, from a training run to a verdict."""

import subprocess
import sys
from pathlib import Path

import pytest

from bundle.read import read_bundle

TEXT = "".join(
    f"{name}:\nI have {number} words to say, and no more.\n\n" for number in range(300) for name in ("A", "B")
)


def charstream(*argv: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "charstream", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run of a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)
    sizes = ("--layers", 1, "--hidden", 32, "--embedding", 8, "--batch", 8, "--sequence", 32)
    result = charstream("train", "--data", folder / "text.txt", "--out", folder / "run", "--steps", 30, *sizes)
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    result = charstream("export", run, "--out", run.parent / "bundles" / "words")
    assert result.returncode == 0, result.stderr
    assert "verified" in result.stderr
    assert result.stdout.startswith(str(run.parent / "bundles" / "words"))
    return run.parent / "bundles" / "words"


def test_export_writes_a_bundle_that_can_be_read(bundle: Path) -> None:
    manifest = read_bundle(bundle).manifest
    assert (manifest.name, manifest.model.hidden) == ("words", 32)
    assert manifest.training.steps == 30
    assert manifest.training.validation_nats["carried"] > 0
    card = (bundle / "card.md").read_text()
    assert "LSTM, 1 layers of 32" in card
    assert "Temperature 0.8" in card


def test_export_replaces_a_bundle_only_if_told(run: Path, bundle: Path) -> None:
    before = read_bundle(bundle).digest
    refused = charstream("export", run, "--out", bundle, "--version", "2")
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert read_bundle(bundle).digest == before


def test_verify_is_the_verdict(run: Path, bundle: Path) -> None:
    good = charstream("verify", bundle)
    assert good.returncode == 0
    assert "largest difference of a state" in good.stdout
    assert charstream("verify", bundle, "--run", run).returncode == 0


def test_verify_refuses_the_run_of_another_model(run: Path, bundles: Path) -> None:
    result = charstream("verify", bundles / "tiny", "--run", run)
    assert result.returncode == 1
    assert "holds another model" in result.stderr
    assert result.stderr.count("\n") == 1


def test_verify_names_what_is_damaged(bundle: Path, tmp_path: Path) -> None:
    result = charstream("verify", tmp_path / "nothing")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "manifest.json" in result.stderr


@pytest.mark.parametrize(("flags", "word"), [(("--name", "No Capitals"), "name"), (("--version", "a b"), "version")])
def test_names_that_a_bundle_may_not_have(run: Path, tmp_path: Path, flags: tuple[str, str], word: str) -> None:
    result = charstream("export", run, "--out", tmp_path / "x", *flags)
    assert result.returncode == 2
    assert word in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    result = charstream("export", tmp_path / "run", "--out", tmp_path / "x")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
