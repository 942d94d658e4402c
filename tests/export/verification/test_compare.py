"""What is exported computes what was trained, and `verify` notices when it does not."""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import onnx
import pytest
import torch

from bundle.pair_bound import METADATA
from bundle.read import STEP, decode_file, full_file
from export.build import build
from export.graph.modules import StepGraph
from export.verification.compare import reference_of_bundle, verify
from export.verification.tolerance import Verification
from models.training.checkpoint import Trained
from tests.conftest import OTHER_CELLS, Files, tiny_model, with_precisions, with_used_norms
from tests.export.helpers import weights_of

pytestmark = pytest.mark.slow


def passed(found: list[Verification]) -> bool:
    return all(verification.has_passed for verification in found)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "rnn, many characters"])
def test_every_cell_is_verified_in_both_precisions(
    cell: str, tiny: Trained, tiny_files: Files, cell_files: Callable[[str], Files]
) -> None:
    trained, files = (tiny, tiny_files) if cell == "lstm" else (OTHER_CELLS[cell](), cell_files(cell))
    bundle = with_precisions(files, "fp32", "int8")
    found = verify(*bundle, trained.model)
    assert passed(found), found
    assert [v.file for v in found] == [STEP, *(f(p) for p in ("fp32", "int8") for f in (decode_file, full_file))]
    assert all(v.outcomes > 1000 for v in found[1:])
    assert passed(verify(*bundle, reference_of_bundle(*bundle)))


# Options that the cells above lack: operators of their own, normalisation, sums of layers, one-hot input.
OPTIONS: dict[str, dict[str, object]] = {
    "prelu": {"cell": "rnn", "activation": "prelu", "norm": "batch", "input": "onehot"},
    "maxout, pre": {"cell": "rnn", "activation": "maxout", "form": "pre", "residual": True, "recurrent_norm": "layer"},
}


@pytest.mark.parametrize("name", [*OPTIONS, "rnn, pre"])
def test_what_cannot_be_quantised_is_verified_in_float32(name: str, cell_files: Callable[[str], Files]) -> None:
    if name in OPTIONS:
        trained = with_used_norms(tiny_model(hidden=24, **OPTIONS[name]))
        manifest, files = build(trained, "cell", "1")
        assert manifest.precisions == ("fp32",)
    else:
        trained = OTHER_CELLS[name]()
        manifest, files = with_precisions(cell_files(name), "fp32")
    assert passed(verify(manifest, files, trained.model))
    assert passed(verify(manifest, files, reference_of_bundle(manifest, files)))


def test_batch_normalisation_becomes_part_of_the_weights_in_8_bits_too() -> None:
    trained = with_used_norms(tiny_model(cell="rnn", activation="rbf", form="pre", norm="batch", hidden=24))
    manifest, files = build(trained, "cell", "1")
    assert manifest.precisions == ("fp32", "int8")
    found = verify(manifest, files, trained.model)
    assert passed(found), found


def test_a_normalised_recurrence_has_8_bits_and_graphs_for_a_device() -> None:
    trained = with_used_norms(tiny_model(cell="gru", recurrent_norm="layer", hidden=24))
    manifest, files = build(trained, "cell", "1", ["fp32", "int8", "fp32-cuda"])
    found = verify(manifest, files, trained.model)
    assert passed(found), found
    assert passed(verify(manifest, files, reference_of_bundle(manifest, files)))


def test_a_bundle_whose_weights_are_partly_equal_can_be_verified_without_its_run() -> None:
    """Equal tensors must not become one that has only one of their names."""
    trained = tiny_model(cell="rnn", hidden=8)
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


@pytest.mark.parametrize(("name", "exported"), [("head.bias",) * 2, ("layers.1.weight_hh", "1.both.1.weight")])
def test_a_model_that_is_not_finite_is_not_verified(name: str, exported: str, tiny: Trained, tiny_files: Files) -> None:
    """Neither if its files are no more finite."""
    manifest, files = with_precisions(tiny_files, "fp32")
    model = deepcopy(tiny.model)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[3] = torch.nan
    files = files | {file: not_finite(files[file], exported) for file in (STEP, decode_file("fp32"), full_file("fp32"))}
    assert not passed(verify(manifest, files, model))
    assert not passed(verify(manifest, files, reference_of_bundle(manifest, files)))


def not_finite(data: bytes, name: str) -> bytes:
    model = onnx.load_from_string(data)
    (tensor,) = (tensor for tensor in weights_of(model) if tensor.name.endswith(name))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[3] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model.SerializeToString()


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
    (tensor,) = (tensor for tensor in weights_of(model) if tensor.name.endswith(part))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[..., 7] = (values[..., 7] * 1.1).round() if values.dtype == np.int8 else values[..., 7] * 1.1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    found = verify(manifest, {**files, name: model.SerializeToString()}, tiny.model)
    assert [v.file for v in found if not v.has_passed] == [name]


def rounded_to_nearest(data: bytes, step: StepGraph, *, promise: bool) -> bytes:
    """Return an int8 file with the weights that export wrote before there was a bound on pairs."""
    model = onnx.load_from_string(data)
    tensors = {tensor.name: tensor for tensor in weights_of(model)}
    for name, dense in step.matmuls().items():
        scale = dense.weight.abs().amax(0) / 127
        for part, values in (("scale", scale), ("weight", torch.round(dense.weight / scale).to(torch.int8))):
            tensor = tensors[f"step.{name}.{part}"]
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.detach().numpy(), tensor.name))
    if not promise:
        kept = {entry.key: entry.value for entry in model.metadata_props if entry.key not in METADATA}
        onnx.helper.set_model_props(model, kept)
    return model.SerializeToString()


def test_older_bundles_of_8_bits_are_verified_and_a_broken_promise_is_noticed(tiny_files: Files, tiny: Trained) -> None:
    manifest, files = tiny_files
    step, name = StepGraph(tiny.model).eval(), decode_file("int8")
    older = {**files, name: rounded_to_nearest(files[name], step, promise=False)}
    assert passed(verify(manifest, older, tiny.model))
    found = verify(manifest, {**files, name: rounded_to_nearest(files[name], step, promise=True)}, tiny.model)
    (failed,) = (verification for verification in found if not verification.has_passed)
    assert failed.file == name
    assert "beyond the bound 128" in str(failed)


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
