"""`charstream evaluate`: the same numbers of a run, of its bundle and by hand, and what they mean."""

import copy
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bundle.manifest import Manifest
from bundle.vocabulary import Vocabulary
from export.evaluate import join_models, main, tokens_of_part
from export.verification.onnx_evaluator import OnnxEvaluator
from export.verification.onnx_session import OnnxSession
from models.data.corpus import open_corpus
from models.data.text_files import CorpusError, TextForm
from models.evaluation.evaluation import EvaluatedModel, Evaluation, evaluate
from models.evaluation.losses import AverageEvaluator, TorchEvaluator
from models.network.char_lm import CharLM, ModelConfig
from models.training.checkpoint import Trained
from tests.conftest import ASCII, tiny_model

LINES = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "hamlet.txt"
    path.write_text(LINES * 60)
    return path


def _evaluate(*flags: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main([*flags, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("protocol", [("carried",), ("windows", "--window", "50")])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bundle_loses_what_its_model_does(
    tiny: Trained,
    bundles: Path,
    text: Path,
    precision: str,
    protocol: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--data", str(text), "--part", "all", "--precision", precision, "--protocol", *protocol)
    found = _evaluate(str(bundles / "tiny"), *flags, capsys=capsys)
    ids = tiny.vocabulary.encode(text.read_text())
    expecting = EvaluatedModel("torch", TorchEvaluator(tiny.model), tiny.vocabulary, tiny.start_text)
    expected = evaluate(expecting, ids, "text", protocol[0], 50)  # type: ignore[arg-type]
    assert found["symbols"] == expected.symbols
    assert found["nats"] == pytest.approx(expected.nats, abs=1e-3 if precision == "fp32" else 0.05)
    assert found["bits"] == pytest.approx(found["nats"] / math.log(2))
    assert found["perplexity"] == pytest.approx(math.exp(found["nats"]))
    assert found["interval"][0] < found["nats"] < found["interval"][1]


def test_the_report_says_what_was_measured_and_how_sure_it_is(
    bundles: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--data", str(text), "--protocol", "windows", "--window", "64", "--part", "training")
    assert main([str(bundles / "tiny"), *flags]) == 0
    said = capsys.readouterr().out
    symbols = int(0.9 * len(text.read_text()))
    assert f"{(symbols - 1) // 64:,} windows; {(symbols - 1) % 64:,} characters left out at the end" in said
    for word in ("nanoGPT's protocol", "perplexity", "95 % interval of the mean", "Hoeffding's bound", "correlate by"):
        assert word in said


def test_several_models_are_evaluated_as_one(
    tiny: Trained, bundles: Path, device_bundles: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each character has the mean of the probabilities that they give it; a model with itself is the model."""
    flags = ("--data", str(text), "--part", "all")
    alone = _evaluate(str(bundles / "tiny"), *flags, capsys=capsys)
    twice = _evaluate(str(bundles / "tiny"), str(device_bundles / "tiny"), *flags, capsys=capsys)
    assert twice["nats"] == pytest.approx(alone["nats"], abs=1e-5)
    assert str(twice["model"]).startswith("mean of the probabilities of 2 models: bundle ")
    other = tiny_model(seed=1)
    ids, start = tiny.vocabulary.encode(LINES), tiny.vocabulary.encode("\n")
    evaluators = [TorchEvaluator(one.model) for one in (tiny, other)]
    each = [one.read(start[:, None], ids[:1, None], one.initial_state(1))[0] for one in evaluators]
    mean = AverageEvaluator(evaluators)
    (found,), _ = mean.read(start[:, None], ids[:1, None], mean.initial_state(1))
    assert found[0] == pytest.approx(-math.log(np.mean(np.exp(-np.concatenate(each)))), abs=1e-5)


def test_models_of_other_characters_have_no_mean(tiny: Trained) -> None:
    models = [
        EvaluatedModel(name, TorchEvaluator(tiny.model), Vocabulary(symbols), "\n")
        for name, symbols in (("one", "\nab"), ("other", "\nba"))
    ]
    with pytest.raises(ValueError, match="other has another vocabulary than one: no mean of their probabilities"):
        join_models(models)


def test_a_model_that_learns_as_it_reads_knows_a_text_that_repeats_itself(
    bundles: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--data", str(text), "--part", "validation")
    still = _evaluate(str(bundles / "tiny"), *flags, capsys=capsys)
    slow = _evaluate(str(bundles / "tiny"), *flags, "--dynamic", "--dynamic-rate", "1e-9", capsys=capsys)
    fast = _evaluate(str(bundles / "tiny"), *flags, "--dynamic", "--dynamic-rate", "2e-3", capsys=capsys)
    assert slow["nats"] == pytest.approx(still["nats"], abs=1e-3)
    assert fast["nats"] < still["nats"] - 0.3
    assert (fast["protocol"], fast["symbols"]) == ("dynamic", still["symbols"])
    with pytest.raises(SystemExit, match="2"):
        main([str(bundles / "tiny"), *flags, "--dynamic", "--protocol", "windows"])
    assert "--dynamic reads as --protocol carried" in capsys.readouterr().err


def test_too_few_values_have_no_interval(tiny: Trained, text: Path) -> None:
    expecting = EvaluatedModel("torch", TorchEvaluator(tiny.model), tiny.vocabulary, tiny.start_text)
    found = evaluate(expecting, tiny.vocabulary.encode(LINES), "text", "windows", 50)
    assert found.interval is None
    assert "no confidence interval: 50 characters are too few" in str(found)


def _constant(vocabulary: Vocabulary) -> EvaluatedModel:
    model = CharLM(ModelConfig(vocab=len(vocabulary), layers=1, hidden=2, embedding=2))
    for parameter in model.parameters():
        parameter.data.zero_()
    return EvaluatedModel("constant", TorchEvaluator(model), vocabulary, "\n")


def test_bytes_are_told_per_character_too(tmp_path: Path) -> None:
    """Three bytes make a euro: a model that knows nothing loses ln 256 at each."""
    path = tmp_path / "euros.txt"
    path.write_text("\u20ac" * 100, "utf-8")
    corpus = open_corpus(str(path), vocabulary="bytes")
    found = evaluate(_constant(corpus.vocabulary), corpus.ids, "text", "carried", 1)
    assert found.nats == pytest.approx(math.log(256))
    assert found.facts()["nats_per_character"] == pytest.approx(3 * math.log(256))
    assert "nats per byte" in str(found)


def test_another_vocabulary_is_translated_or_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abcabc\u00e9abc")
    corpus = open_corpus(str(path), split="0.5,0.5")
    model = Vocabulary("cbax")
    assert tokens_of_part(corpus, "training", model).tolist() == [2, 1, 0, 2, 1]
    with pytest.raises(CorpusError, match=r"the validation part of .*U\+00E9\) at place 1 is not in the vocabulary"):
        tokens_of_part(corpus, "validation", model)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--part", "test"), "has no test part with --split 0.9,0.1; --part all takes all of it"),
        (("--protocol", "windows", "--window", "600"), "has 510 characters, a window of 600 needs 601"),
        (("--split", "2"), "expected the shares of training, validation and test"),
        (("--dynamic", "--split", "0.01,0.99"), "symbols; --dynamic needs 97 at least"),
        (("--dynamic-rate", "1"), "is how fast --dynamic adapts: give that as well"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    bundles: Path, text: Path, flags: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(bundles / "tiny"), "--data", str(text), *flags])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


def test_weights_that_are_no_numbers_are_told(tiny: Trained) -> None:
    constant = _constant(tiny.vocabulary)
    constant.evaluator._model.head.bias.data.fill_(math.nan)  # type: ignore[attr-defined]
    with pytest.raises(CorpusError, match="its weights are no good"):
        evaluate(constant, np.zeros(100, np.uint8), "text", "carried", 1)


def test_the_server_scores_what_the_protocol_carried_says(
    tiny: Trained, tiny_files: tuple[Manifest, dict[str, bytes]]
) -> None:
    manifest, files = tiny_files
    reader = OnnxEvaluator(OnnxSession(files["full.fp32.onnx"]), manifest)
    ids = manifest.vocabulary.encode(LINES * 10)
    parts = ("text", "carried", 1)
    found: list[Evaluation] = [
        evaluate(EvaluatedModel("x", one, manifest.vocabulary, "\n"), ids, *parts)  # type: ignore[arg-type]
        for one in (reader, TorchEvaluator(tiny.model))
    ]
    assert found[0].nats == pytest.approx(found[1].nats, abs=1e-4)
    assert manifest.symbols == ASCII


def test_a_bundle_is_evaluated_on_the_part_that_its_run_held_out(
    bundles: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another split would count what it was trained on."""
    bundle = shutil.copytree(bundles / "tiny", tmp_path / "half")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["training"]["split"] = "0.5,0.5"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert _evaluate(str(bundle), "--data", str(text), capsys=capsys)["symbols"] == len(text.read_text()) // 2


def _with_text(bundle: Path, **record: str) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["training"] |= record
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_knows_its_text(
    bundles: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the path where it still lies; another text of that name is not taken for it."""
    bundle = shutil.copytree(bundles / "tiny", tmp_path / "bundles" / "tiny")
    _with_text(bundle, data=text.name, data_sha256=open_corpus(str(text)).sha256)
    monkeypatch.chdir(text.parent)
    found = _evaluate(str(bundle), capsys=capsys)
    expected = _evaluate(str(bundle), "--data", str(text), capsys=capsys)
    assert (found["text"], found["nats"]) == (expected["text"], expected["nats"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / text.name).write_text("To be, or not")
    with pytest.raises(SystemExit) as end:
        main([str(bundle)])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert f"was trained on '{text.name}'" in said
    assert "--data says where one is" in said
    assert said.count("\n") == 1


def test_a_bundle_knows_its_text_in_the_encoding_that_is_given(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "hamlet.md").write_text(LINES * 20, "utf-16")
    flags = ("--glob", "*.md", "--encoding", "utf-16")
    bundle = shutil.copytree(bundles / "tiny", tmp_path / "bundles" / "tiny")
    corpus = open_corpus(str(folder), form=TextForm("*.md", "utf-16"))
    _with_text(bundle, data=str(folder), data_sha256=corpus.sha256)
    found = _evaluate(str(bundle), *flags, capsys=capsys)
    assert found["nats"] == _evaluate(str(bundle), "--data", str(folder), *flags, capsys=capsys)["nats"]
    with pytest.raises(SystemExit):
        main([str(bundle)])
    assert "--data says where one is" in capsys.readouterr().err


def test_a_bundle_finds_its_text_as_the_run_has_it(
    bundles: Path, tiny: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another text of the name that the manifest has, in no encoding of ours, is passed over."""
    texts, elsewhere = tmp_path / "texts", tmp_path / "elsewhere"
    for folder in (texts, elsewhere):
        folder.mkdir()
    (texts / "hamlet.md").write_text(LINES * 20, "utf-16")
    (elsewhere / "texts").mkdir()
    bundle = shutil.copytree(bundles / "tiny", tmp_path / "bundles" / "tiny")
    _with_text(bundle, data="texts", data_sha256=open_corpus(str(texts), form=TextForm("*.md", "utf-16")).sha256)
    run = SimpleNamespace(data=str(texts), glob="*.md", encoding="utf-16")
    asked = []

    def read_run(folder: Path) -> tuple[SimpleNamespace]:
        asked.append(folder)
        return (SimpleNamespace(settings=run),)

    monkeypatch.setattr("export.evaluate.read", read_run)
    monkeypatch.chdir(elsewhere)
    found = _evaluate(str(bundle), capsys=capsys)
    assert found["symbols"] == len(LINES * 20) // 10
    assert asked == [(tmp_path / "runs" / "tiny").resolve()]


def test_a_loss_beyond_what_a_float_can_tell_is_told(tiny: Trained) -> None:
    ids = tiny.vocabulary.encode(LINES * 20)
    model = copy.deepcopy(tiny.model)
    with torch.no_grad():
        model.head.bias[0] = 1e4
    found = evaluate(
        EvaluatedModel("far off", TorchEvaluator(model), tiny.vocabulary, tiny.start_text), ids, "text", "carried", 0
    )
    assert found.nats > 1000
    assert "perplexity inf" in str(found)
    assert found.facts()["perplexity"] is None
