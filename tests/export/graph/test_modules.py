"""What is exported computes what was trained, and `verify` notices when it does not."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bundle.manifest import Manifest
from bundle.philox import uniforms
from bundle.read import STEP, decode_file, full_file
from export.build import build
from export.graph.bounds import Unbounded
from export.graph.modules import DecodeGraph, StepGraph
from export.verification.compare import reference_of_bundle, verify
from export.verification.tolerance import Verification
from models.network.activations import ACTIVATIONS
from models.network.generate import generate
from models.training.checkpoint import Trained
from tests.conftest import tiny_model

pytestmark = pytest.mark.slow

Files = tuple[Manifest, dict[str, bytes]]
CELLS = [("lstm", "tanh"), ("gru", "tanh"), ("rnn", "tanh"), ("rnn", "sigmoid")]


def passed(found: list[Verification]) -> bool:
    return all(verification.has_passed for verification in found)


@pytest.mark.parametrize(("cell", "activation"), CELLS)
def test_every_cell_is_verified_in_both_precisions(cell: str, activation: str) -> None:
    trained = tiny_model(cell=cell, activation=activation, layers=3 if cell == "gru" else 1, hidden=24)
    manifest, files = build(trained, "cell", "1")
    found = verify(manifest, files, trained.model)
    assert passed(found), found
    assert [v.file for v in found] == [STEP, *(f(p) for p in ("fp32", "int8") for f in (decode_file, full_file))]
    assert all(v.outcomes > 1000 for v in found[1:])
    assert passed(verify(manifest, files, reference_of_bundle(manifest, files)))


# What no test above has: operators of their own, normalisation, sums of layers, one-hot input.
OPTIONS: dict[str, dict[str, object]] = {
    "prelu": {"cell": "rnn", "activation": "prelu", "norm": "batch", "input": "onehot"},
    "softplus, pre": {"cell": "rnn", "activation": "softplus", "form": "pre", "norm": "layer", "residual": True},
    "maxout, pre": {"cell": "rnn", "activation": "maxout", "form": "pre", "residual": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_what_cannot_be_quantised_is_verified_in_float32(name: str) -> None:
    trained = moved(tiny_model(hidden=24, **OPTIONS[name]))
    manifest, files = build(trained, "cell", "1")
    assert manifest.precisions == ("fp32",)
    assert passed(verify(manifest, files, trained.model))
    assert passed(verify(manifest, files, reference_of_bundle(manifest, files)))


def test_batch_normalisation_becomes_part_of_the_weights_in_8_bits_too() -> None:
    trained = moved(tiny_model(cell="rnn", activation="rbf", form="pre", norm="batch", hidden=24))
    manifest, files = build(trained, "cell", "1")
    assert manifest.precisions == ("fp32", "int8")
    found = verify(manifest, files, trained.model)
    assert passed(found), found


def moved(trained: Trained) -> Trained:
    """With normalisations that have seen something."""
    for tensor in trained.model.norms.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.3, 1.7, generator=torch.Generator().manual_seed(0))
    return trained


def every_option() -> Iterator[dict[str, object]]:
    """Each activation in both forms, the gates, and with them all kinds of normalisation, sums and input."""
    others = product(("none", "batch", "layer"), (False, True), ("embedding", "onehot"))
    cells: list[dict[str, object]] = [{"cell": "gru"}, {"cell": "lstm"}]
    cells += [{"cell": "rnn", "activation": name, "form": form} for name in ACTIVATIONS for form in ("post", "pre")]
    for cell, (norm, residual, given) in product(cells, others):
        yield {**cell, "norm": norm, "residual": residual, "input": given}


@torch.no_grad()
def test_a_step_of_the_graph_is_the_models_with_every_option() -> None:
    for options in every_option():
        model = moved(tiny_model(layers=3, hidden=8, **options)).model.double()
        step, state = StepGraph(model).eval(), tuple(torch.rand_like(s) for s in model.initial_state(5))
        token = torch.arange(5)
        logits, *after = step(token, *state)
        expected, expected_after = model(token.unsqueeze(0), state)
        torch.testing.assert_close((logits, *after), (expected[0], *expected_after), msg=str(options))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cell": "rnn", "activation": "relu"}, "layers.0 reads its own output again, and relu has no bound"),
        ({"norm": "layer"}, "layers.1 reads what a layer normalisation gives"),
        ({"norm": "layer", "layers": 1}, "head reads what a layer normalisation gives"),
        ({"residual": True}, "head reads the sum of layers.0 and layers.1"),
        ({"residual": True, "layers": 3}, "layers.2 reads the sum"),
    ],
)
def test_what_cannot_be_quantised_says_which_layer_and_why(options: dict[str, object], reason: str) -> None:
    with pytest.raises(Unbounded, match=f"this model has no int8: {reason}"):
        build(tiny_model(hidden=8, **options), "cell", "1", ["fp32", "int8"])


def test_a_bundle_whose_weights_are_partly_equal_can_be_verified_without_its_run() -> None:
    """Equal tensors must not become one that has only one of their names."""
    trained = tiny_model(hidden=8)
    with torch.no_grad():
        for name, parameter in trained.model.layers.named_parameters():
            if "bias" in name:
                parameter.zero_()
    manifest, files = build(trained, "equal", "1", ["fp32"])
    assert passed(verify(manifest, files, reference_of_bundle(manifest, files)))


def test_a_model_that_amplifies_roundings_is_verified() -> None:
    trained = tiny_model()
    with torch.no_grad():
        for name, parameter in trained.model.layers.named_parameters():
            if "weight_hh" in name:
                parameter.mul_(8)
    manifest, files = build(trained, "wild", "1", ["fp32"])
    found = verify(manifest, files, trained.model)
    assert passed(found), found


def test_verify_notices_another_model(tiny_files: Files) -> None:
    found = verify(*tiny_files, tiny_model(seed=1).model)
    assert not any(verification.has_passed for verification in found)
    assert "FAILED" in str(found[0])


@pytest.mark.parametrize("name", ["head.bias", "layers.1.weight_hh"])
def test_a_model_that_is_not_finite_is_not_verified(name: str) -> None:
    trained = tiny_model(hidden=16)
    with torch.no_grad():
        trained.model.get_parameter(name).view(-1)[3] = torch.nan
    manifest, files = build(trained, "nan", "1", ["fp32"])
    assert not passed(verify(manifest, files, trained.model))
    assert not passed(verify(manifest, files, reference_of_bundle(manifest, files)))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("change", ["weight", "scale", "table"])
def test_verify_notices_one_wrong_number_of_a_loop(
    tiny_files: Files, tiny: Trained, precision: str, change: str
) -> None:
    """The step is right; in the loop one column is a tenth too large."""
    manifest, files = tiny_files
    name = decode_file(precision)
    model = onnx.load_from_string(files[name])
    parts = {"table": "layers.0.tables.2", "weight": "both.1.weight", "scale": "both.1.scale"}
    part = parts["weight" if precision == "fp32" and change == "scale" else change]
    (tensor,) = (tensor for tensor in weights(model) if tensor.name.endswith(part))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[..., 7] = (values[..., 7] * 1.1).round() if values.dtype == np.int8 else values[..., 7] * 1.1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    found = verify(manifest, {**files, name: model.SerializeToString()}, tiny.model)
    assert [v.file for v in found if not v.has_passed] == [name]


def test_verify_notices_rows_that_depend_on_their_neighbours(tiny_files: Files, tiny: Trained) -> None:
    """A graph that adds the batch's mean of one state to every row."""
    manifest, files = tiny_files
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
    assert any("alone differ" in failure for verification in found for failure in verification.failures)


def test_the_loop_in_torch_gives_the_reference_text(tiny: Trained) -> None:
    graph = DecodeGraph(StepGraph(tiny.model), len(tiny.vocabulary))
    prompt, chars = "Hello", 40
    ids = tiny.vocabulary.encode(prompt)
    steps = len(ids) + chars
    forced = torch.full((steps, 2), -1)
    forced[: len(ids)] = torch.from_numpy(ids)[:, None]
    uniform = torch.from_numpy(uniforms([3, 4], 1, steps))
    start = torch.from_numpy(tiny.vocabulary.encode("\n")).expand(2)
    with torch.no_grad():
        tokens, *_ = graph(start.clone(), forced, uniform, torch.tensor([0.7, 0.0]), *tiny.model.initial_state(2))
    for column, (seed, temperature) in enumerate([(3, 0.7), (4, 0.0)]):
        text = tiny.vocabulary.decode(tokens[len(ids) :, column].numpy())
        assert text == generate(tiny.model, tiny.vocabulary, "\n", prompt, chars, temperature=temperature, seed=seed)


def weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Of the graph and of its loops."""
    bodies = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    return [tensor for graph in (model.graph, *bodies) for tensor in graph.initializer]


def test_files_explain_themselves_and_hold_no_unused_weights(tiny_files: Files) -> None:
    manifest, files = tiny_files
    for name in (name for name in files if name.endswith(".onnx")):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(files[name], options, providers=["CPUExecutionProvider"])
        properties = session.get_modelmeta().custom_metadata_map
        assert properties["charstream.name"] == "tiny"
        assert '"hidden":64' in properties["charstream.model"]
        model = onnx.load_from_string(files[name])
        assert model.opset_import[0].version == 20
        assert b"graphs.py" not in files[name], "paths of the exporting machine"
        assert sum(len(tensor.raw_data) for tensor in weights(model)) < manifest.files[STEP].bytes + 40_000
    assert manifest.files[STEP].bytes == len(files[STEP])


def test_equal_models_give_equal_files() -> None:
    precisions = ["fp32", "fp32-cuda"]
    first, second = (build(model, "tiny", "1", precisions) for model in (tiny_model(hidden=8), tiny_model(hidden=8)))
    assert first == second
