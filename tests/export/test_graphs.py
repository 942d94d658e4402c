"""What is exported computes what was trained, and `verify` notices when it does not."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bundle.philox import uniforms
from bundle.read import STEP, decode_file
from export.build import build
from export.graphs import DecodeGraph, StepGraph, sample
from export.verification import reference_of_bundle, verify
from models.checkpoint import Trained
from models.generate import generate
from tests.conftest import tiny_model


@pytest.mark.parametrize("layers", [1, 3])
def test_any_depth_is_verified_against_the_trained_model(layers: int) -> None:
    trained = tiny_model(layers=layers, hidden=24)
    manifest, files = build(trained, "deep", "1")
    found = verify(manifest, files, trained.model)
    assert found.passed, found.report()
    assert found.outcomes > 1000
    assert verify(manifest, files, reference_of_bundle(manifest, files)).passed


def test_verify_notices_another_model(tiny: Trained) -> None:
    manifest, files = build(tiny, "tiny", "1")
    found = verify(manifest, files, tiny_model(seed=1).model)
    assert not found.passed
    assert "FAILED" in found.report()


@pytest.mark.parametrize("name", ["head.bias", "lstm.weight_hh_l1"])
def test_a_model_that_is_not_finite_is_not_verified(name: str) -> None:
    trained = tiny_model(hidden=16)
    with torch.no_grad():
        trained.model.get_parameter(name).view(-1)[3] = torch.nan
    manifest, files = build(trained, "nan", "1")
    assert not verify(manifest, files, trained.model).passed
    assert not verify(manifest, files, reference_of_bundle(manifest, files)).passed


def test_verify_notices_a_wrong_loop(tiny: Trained) -> None:
    """The step is right, the loop is another model's."""
    manifest, files = build(tiny, "tiny", "1")
    _, others = build(tiny_model(seed=1), "tiny", "1")
    decode = decode_file("fp32")
    found = verify(manifest, {**files, decode: others[decode]}, tiny.model)
    assert not found.passed


def test_verify_notices_rows_that_depend_on_their_neighbours(tiny: Trained) -> None:
    """A graph that adds the batch's mean of one state to every row."""
    manifest, files = build(tiny, "tiny", "1")
    decode = decode_file("fp32")
    model = onnx.load_from_string(files[decode])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "first_axis"))
    mean = onnx.helper.make_node("ReduceMean", ["h0", "first_axis"], ["mean"], keepdims=1)
    add = onnx.helper.make_node("Add", ["h0", "mean"], ["h0_mixed"])
    (loop,) = (node for node in model.graph.node if node.op_type == "Scan")
    loop.input[:] = ["h0_mixed" if name == "h0" else name for name in loop.input]
    place = list(model.graph.node).index(loop)
    model.graph.node.insert(place, add)
    model.graph.node.insert(place, mean)
    found = verify(manifest, {**files, decode: model.SerializeToString()}, tiny.model)
    assert any("alone differ" in failure for failure in found.failures)


def test_the_loop_in_torch_gives_the_reference_text(tiny: Trained) -> None:
    graph = DecodeGraph(StepGraph(tiny.model))
    prompt, chars = "Hello", 40
    ids = tiny.vocabulary.encode(prompt)
    steps = len(ids) + chars
    forced = torch.full((steps, 2), -1)
    forced[: len(ids)] = torch.from_numpy(ids)[:, None]
    uniform = torch.from_numpy(uniforms([3, 4], 1, steps))
    start = torch.from_numpy(tiny.vocabulary.encode("\n")).expand(2)
    with torch.no_grad():
        tokens, *_ = graph(
            start.clone(),
            forced,
            uniform,
            torch.full((2,), steps),
            torch.tensor([0.7, 0.0]),
            *tiny.model.initial_state(2),
        )
    for column, (seed, temperature) in enumerate([(3, 0.7), (4, 0.0)]):
        text = tiny.vocabulary.decode(tokens[len(ids) :, column].numpy())
        assert text == generate(tiny.model, tiny.vocabulary, "\n", prompt, chars, temperature=temperature, seed=seed)


def test_sampling_never_takes_an_impossible_character() -> None:
    """Characters of probability 0 at both ends, and random numbers at the ends of their range."""
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf, 2.0, -torch.inf, -torch.inf]]).expand(4, -1)
    uniform = torch.tensor([0.0, 1e-9, 1 - 2**-23, 0.5])
    outcomes = sample(logits, torch.ones(4), uniform).tolist()
    assert outcomes[:3] == [1, 1, 4]
    assert outcomes[3] in (2, 4)


def test_greedy_takes_the_first_of_equals() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0]])
    assert sample(logits, torch.zeros(1), torch.tensor([0.99])).tolist() == [1]


def test_frequencies_follow_the_probabilities() -> None:
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(0)).expand(200_000, -1)
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(1))
    counts = torch.bincount(sample(logits, torch.full((200_000,), 0.7), uniform), minlength=20).double()
    expected = torch.softmax(logits[0].double() / 0.7, 0) * 200_000
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 43.8  # 0.999 quantile at 19 degrees of freedom


def test_files_explain_themselves_and_hold_no_unused_weights(tiny: Trained) -> None:
    manifest, files = build(tiny, "tiny", "1")
    for name in (STEP, decode_file("fp32")):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(files[name], options, providers=["CPUExecutionProvider"])
        properties = session.get_modelmeta().custom_metadata_map
        assert properties["charstream.name"] == "tiny"
        assert '"hidden":64' in properties["charstream.model"]
        assert onnx.load_from_string(files[name]).opset_import[0].version == 20
        assert b"graphs.py" not in files[name], "paths of the exporting machine"
    assert manifest.files[STEP].bytes == len(files[STEP])


def test_equal_models_give_equal_files(tiny: Trained) -> None:
    first, second = build(tiny, "tiny", "1"), build(dataclasses.replace(tiny), "tiny", "1")
    assert first == second
