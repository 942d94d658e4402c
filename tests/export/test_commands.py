"""charstream export and verify, from a training run to a verdict."""

import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from torch import nn

from bundle.curve import parse_curve
from bundle.manifest import Manifest
from bundle.read import read_bundle
from bundle.write import file_records, write_bundle
from export.__main__ import main as export
from export.verification import compare
from export.verify import main as verify
from models.train import main as train
from tests.conftest import Charstream

pytestmark = pytest.mark.slow

TEXT = "".join(
    f"{name}:\nI have {number} words to say, and no more.\n\n" for number in range(300) for name in ("A", "B")
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run of a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)
    sizes = ("--layers", "1", "--hidden", "32", "--embedding", "8", "--batch", "8", "--sequence", "32")
    flags = ("--data", str(folder / "text.txt"), "--out", str(folder / "run"), "--steps", "30", *sizes)
    assert train(flags) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    folder, out, err = run.parent / "bundles" / "words", io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert export([str(run), "--with-first", "--out", str(folder)]) == 0
    assert "verified: all 5 graphs compute what torch does, within tolerance" in err.getvalue()
    assert out.getvalue().startswith(str(folder))
    return folder


def test_export_writes_a_bundle_that_can_be_read(bundle: Path) -> None:
    manifest = read_bundle(bundle).manifest
    assert (manifest.name, manifest.model.hidden) == ("words", 32)
    assert manifest.training.steps == 30
    assert manifest.training.validation_nats["carried"] > 0
    assert manifest.training.prompts[0] == "I have 270 words to say,"
    card = (bundle / "card.md").read_text()
    assert f"`{manifest.training.prompts[0]}`" in card
    assert "LSTM, 1 layer of 32" in card
    assert "Temperature 0.8" in card


def test_the_first_checkpoint_comes_along_as_another_model_and_both_have_the_curve(bundle: Path) -> None:
    last, first = read_bundle(bundle), read_bundle(bundle.with_name("words-first"))
    assert (first.manifest.name, first.manifest.training.steps) == ("words-first", 2)
    assert first.files["step.onnx"] != last.files["step.onnx"]
    curve = parse_curve(last.files["training.json"])
    assert curve == parse_curve(first.files["training.json"])
    assert curve.validation[0][0] == 2
    assert curve.validation[-1][0] == 30
    assert curve.validation[0][1] > curve.validation[-1][1] > 0
    assert curve.training


def test_a_run_without_a_first_checkpoint_says_so(charstream: Charstream, bundle: Path, run: Path) -> None:
    refused = charstream("export", run / "best.json", "--with-first", "--out", run.parent / "none")
    assert refused.returncode == 2
    assert "leave the flag out" in refused.stderr
    assert not (run.parent / "none").exists()


def test_export_replaces_a_bundle_only_if_told(charstream: Charstream, run: Path, bundle: Path) -> None:
    before = read_bundle(bundle).digest
    refused = charstream("export", run, "--out", bundle, "--version", "2")
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert read_bundle(bundle).digest == before


def test_verify_is_the_verdict(charstream: Charstream, run: Path, bundle: Path) -> None:
    good = charstream("verify", bundle)
    assert good.returncode == 0
    assert "decode.int8.onnx: within tolerance: " in good.stdout
    assert charstream("verify", bundle, "--run", run).returncode == 0


def test_a_bundle_is_evaluated_on_the_text_of_its_run(charstream: Charstream, run: Path, bundle: Path) -> None:
    """The run of the same name lies in runs beside bundles, as the README has them."""
    (run.parent / "runs").mkdir()
    (run.parent / "runs" / bundle.name).symlink_to(run)
    own, given = (charstream("evaluate", bundle, *flags) for flags in ((), ("--data", run.parent / "text.txt")))
    assert own.returncode == 0, own.stderr
    assert own.stdout == given.stdout


def test_verify_measures_the_loss_of_both_precisions(charstream: Charstream, run: Path, bundle: Path) -> None:
    result = charstream("verify", bundle, "--data", run.parent / "text.txt")
    assert result.returncode == 0, result.stderr
    found = re.findall(r"^(fp32|int8): (\S+) nats a character", result.stdout, re.M)
    assert [precision for precision, _ in found] == ["fp32", "int8"]
    trained = read_bundle(bundle).manifest.training.validation_nats["carried"]
    assert all(abs(float(nats) - trained) < 0.003 for _, nats in found)


def test_verify_fails_where_8_bits_cost_too_much(
    charstream: Charstream, bundle: Path, run: Path, tmp_path: Path
) -> None:
    """The 8-bit files of another model, that of the first checkpoint: they are sound."""
    good, bad = read_bundle(bundle), read_bundle(bundle.with_name("words-first"))
    mixed = {**good.files, **{name: data for name, data in bad.files.items() if "int8" in name}}
    write_bundle(tmp_path / "mixed", good.manifest.model_copy(update={"files": file_records(mixed)}), mixed)
    result = charstream("verify", tmp_path / "mixed", "--data", run.parent / "text.txt")
    assert result.returncode == 1
    assert "int8 costs more than 0.003 nats" in result.stderr


def test_a_precision_that_is_not_known_is_refused(charstream: Charstream, run: Path, tmp_path: Path) -> None:
    for given in ("int4", "int8,fp16-cuda", "fp16-cuda", "fp32,fp32", ""):
        result = charstream("export", run, "--out", tmp_path / "x", f"--precision={given}")
        assert result.returncode == 2
        assert "allowed are fp32 and, after a comma each, int8, fp32-cuda, fp16-cuda; or int8 alone" in result.stderr


def test_a_bundle_of_8_bits_alone_is_a_whole_model(
    charstream: Charstream, run: Path, bundle: Path, tmp_path: Path
) -> None:
    """step.onnx has the weights in fp32: it is verified, evaluated in both, and exported anew with loops in fp32."""
    small, whole, data = tmp_path / "small", tmp_path / "whole", ("--data", run.parent / "text.txt")
    (tmp_path / "about.md").write_text("The text is in the public domain.\n")
    flags = ("--precision", "int8", "--about", tmp_path / "about.md")
    assert charstream("export", run, "--out", small, *flags).returncode == 0
    assert not list(small.glob("*fp32*"))
    assert "\n\nThe text is in the public domain.\n\n## Samples" in (small / "card.md").read_text()
    verified = charstream("verify", small, *data)
    assert verified.returncode == 0
    assert re.findall(r"^(fp32|int8): \S+ nats", verified.stdout, re.M) == ["fp32", "int8"]
    of_small, of_bundle = (
        json.loads(charstream("evaluate", folder, *data, "--json").stdout)["nats"] for folder in (small, bundle)
    )
    assert of_small == pytest.approx(of_bundle, abs=1e-5)
    assert charstream("export", small, "--out", whole, "--precision", "fp32").returncode == 0
    assert read_bundle(whole).manifest.precisions == ("fp32",)
    assert not list(whole.glob("*int8*"))
    assert json.loads(charstream("evaluate", whole, *data, "--json").stdout)["nats"] == pytest.approx(
        of_small, abs=1e-5
    )


def test_graphs_for_a_device_are_written_when_they_are_asked_for(
    charstream: Charstream, run: Path, tmp_path: Path
) -> None:
    result = charstream("export", run, "--out", tmp_path / "x", "--precision", "fp32-cuda,fp32")
    assert result.returncode == 0, result.stderr
    assert "full.fp32-cuda.64.onnx: within tolerance" in result.stderr
    assert read_bundle(tmp_path / "x").manifest.precisions == ("fp32", "fp32-cuda")
    assert "| arithmetic of the matmuls | fp32, fp32-cuda |" in (tmp_path / "x" / "card.md").read_text()


def test_verify_measures_the_loss_of_graphs_for_a_device(
    device_files: tuple[Manifest, dict[str, bytes]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They read 64 characters at a time, and the text ends where it ends."""
    monkeypatch.setattr(compare, "DEVICE_STEPS", (4,))  # tests/export/test_unroll.py verifies the others
    write_bundle(tmp_path / "tiny", *device_files)
    (tmp_path / "text.txt").write_text(TEXT[:8000])
    assert verify([str(tmp_path / "tiny"), "--data", str(tmp_path / "text.txt")]) == 0
    nats = dict(re.findall(r"^(\S+): (\S+) nats a character", capsys.readouterr().out, re.M))
    assert nats["fp32-cuda"] == nats["fp32"]
    assert float(nats["fp16-cuda"]) == pytest.approx(float(nats["fp32"]), abs=1e-3)


def test_verify_refuses_the_run_of_another_model(charstream: Charstream, run: Path, bundles: Path) -> None:
    result = charstream("verify", bundles / "tiny", "--run", run)
    assert result.returncode == 1
    assert "holds another model" in result.stderr
    assert result.stderr.count("\n") == 1


def test_verify_names_what_is_damaged(charstream: Charstream, bundle: Path, tmp_path: Path) -> None:
    result = charstream("verify", tmp_path / "nothing")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "manifest.json" in result.stderr


@pytest.mark.parametrize(
    ("flags", "word"),
    [(("--name", "No Capitals"), "give --out bundles/NAME or --name NAME"), (("--version", "a b"), "version")],
)
def test_names_that_a_bundle_may_not_have(
    charstream: Charstream, run: Path, tmp_path: Path, flags: tuple[str, str], word: str
) -> None:
    result = charstream("export", run, "--out", tmp_path / "x", *flags)
    assert result.returncode == 2
    assert word in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_made(
    charstream: Charstream, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = charstream("export", run, "--out", tmp_path / "file" / "x")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"charstream export: {tmp_path}/file/x: {tmp_path}/file cannot be written\n"


def test_a_run_that_is_not_there(charstream: Charstream, tmp_path: Path) -> None:
    result = charstream("export", tmp_path / "run", "--out", tmp_path / "x")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1


def test_a_model_from_elsewhere_without_8_bits_becomes_a_bundle_and_says_why(
    charstream: Charstream, tmp_path: Path
) -> None:
    layers = {f"body.{name}": tensor for name, tensor in nn.RNN(4, 6, 2, nonlinearity="relu").state_dict().items()}
    torch.save({"in": torch.randn(3, 4), **layers, "out.weight": torch.randn(3, 6)}, tmp_path / "model.pt")
    (tmp_path / "chars.json").write_text('["a", "b", "c"]')
    files = (tmp_path / "model.pt", "--vocabulary", tmp_path / "chars.json", "--out", tmp_path / "run")
    result = charstream("import", *files, "--activation", "relu")
    assert result.returncode == 0, result.stderr
    assert "rnn with 2 layers of 6, embedding input, 3 characters" in result.stdout
    reason = "layers.0 reads its own output again, and relu has no bound"
    refused = charstream("export", tmp_path / "run", "--out", tmp_path / "x", "--precision", "fp32,int8")
    assert refused.returncode == 2
    assert reason in refused.stderr
    result = charstream("export", tmp_path / "run", "--out", tmp_path / "x")
    assert result.returncode == 0, result.stderr
    assert f"no int8: {reason}" in result.stderr
    assert read_bundle(tmp_path / "x").manifest.precisions == ("fp32",)
