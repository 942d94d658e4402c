"""A bundle that was changed, or is not one, is refused in one line that says which file and why."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bundle.manifest import Manifest, sha256
from bundle.pair_bound import METADATA
from bundle.read import BundleError, read_bundle
from bundle.write import write_bundle

GRAPH = "decode.fp32.onnx"


@pytest.fixture
def folder(bundles: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(bundles / "tiny", tmp_path / "copy"))


def rewrite_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rewrite_graph(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Changes the decode graph, and the manifest so that the digest is right."""
    model = onnx.load(folder / GRAPH)
    change(model)
    data = model.SerializeToString()
    (folder / GRAPH).write_bytes(data)
    rewrite_manifest(folder, lambda m: m["files"].update({GRAPH: {"sha256": sha256(data), "bytes": len(data)}}))


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / GRAPH).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / GRAPH).write_bytes(data)


def truncate(folder: Path) -> None:
    (folder / GRAPH).write_bytes((folder / GRAPH).read_bytes()[:-1])


def external_data(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def external_data_in_the_loop(model: onnx.ModelProto) -> None:
    (loop,) = (node for node in model.graph.node if node.op_type == "Scan")
    (body,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
    body.initializer.add(name="hidden", data_location=onnx.TensorProto.EXTERNAL)


def external_data_in_a_graph_without_operators(model: onnx.ModelProto) -> None:
    graph = model.graph.node.add(op_type="Identity", name="x").attribute.add(name="body").g
    graph.initializer.add(name="hidden", data_location=onnx.TensorProto.EXTERNAL)


def sparse_tensor(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.data_location = onnx.TensorProto.EXTERNAL


def sparse_constant(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="value").sparse_tensor.dims.append(1)


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[1].name = "force"


def endless_loop(model: onnx.ModelProto) -> None:
    model.graph.node.add(op_type="Loop", name="x")


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node.add(op_type="Evil", domain="com.example", name="x")


def foreign_operator_in_the_loop(model: onnx.ModelProto) -> None:
    (loop,) = (node for node in model.graph.node if node.op_type == "Scan")
    (body,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
    body.node.add(op_type="Evil", domain="com.example", name="x")


def broken_promise(model: onnx.ModelProto) -> None:
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | METADATA)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full((3, 2), -100, np.int8), "eight"))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "changed byte": (flip_a_byte, rf"{GRAPH}: its sha256 is not the manifest's"),
    "truncated file": (truncate, rf"{GRAPH}: \d+ bytes, the manifest says"),
    "missing file": (lambda f: (f / GRAPH).unlink(), rf"{GRAPH}: No such file"),
    "missing manifest": (lambda f: (f / "manifest.json").unlink(), r"manifest.json: No such file"),
    "manifest that is no JSON": (lambda f: (f / "manifest.json").write_text("{"), r"manifest.json: .*JSON"),
    "another format": (
        lambda f: rewrite_manifest(f, lambda m: m.update(format=99, shiny=True)),
        r"manifest.json: format: bundle format 99 is not supported, this version reads format 4",
    ),
    "unknown field": (lambda f: rewrite_manifest(f, lambda m: m.update(shiny=1)), r"manifest.json: shiny: "),
    "graph not listed": (
        lambda f: rewrite_manifest(f, lambda m: m["files"].pop(GRAPH)),
        rf"manifest.json: files: {GRAPH} is missing",
    ),
    "path that leads outside": (
        lambda f: rewrite_manifest(f, lambda m: m["files"].update({"../x": {"sha256": "0" * 64, "bytes": 1}})),
        r"manifest.json: files: file name '../x' is not a plain name",
    ),
    "character twice": (
        lambda f: rewrite_manifest(f, lambda m: m.update(symbols="aa\n")),
        r"manifest.json: .*distinct",
    ),
    "start character unknown": (lambda f: rewrite_manifest(f, lambda m: m.update(start_text="\u20ac")), r"start text"),
    "prompt that the model does not know": (
        lambda f: rewrite_manifest(f, lambda m: m["training"].update(prompts=["caf\u00e9"])),
        r"manifest.json: .*training.prompts: 'caf.*U\+00E9.* is not in the vocabulary",
    ),
    "wrong tensor name": (
        lambda f: rewrite_graph(f, rename_input),
        rf"{GRAPH}: inputs: found force int64 \['K', 'B'\], expected forced int64 \['K', 'B'\]",
    ),
    "wrong size": (
        lambda f: rewrite_manifest(f, lambda m: m["model"].update(hidden=65)),
        r"step.onnx: inputs: found h0 float32 \['B', 64\], expected h0 float32 \['B', 65\]",
    ),
    "external data": (lambda f: rewrite_graph(f, external_data), rf"{GRAPH}: tensor .* lies outside the file"),
    "external data in the loop": (
        lambda f: rewrite_graph(f, external_data_in_the_loop),
        r"tensor 'hidden' lies outside",
    ),
    "external data in a graph without operators": (
        lambda f: rewrite_graph(f, external_data_in_a_graph_without_operators),
        r"tensor 'hidden' lies outside",
    ),
    "sparse tensor": (lambda f: rewrite_graph(f, sparse_tensor), rf"{GRAPH}: a sparse tensor, none is allowed"),
    "sparse constant": (lambda f: rewrite_graph(f, sparse_constant), rf"{GRAPH}: a sparse tensor, none is allowed"),
    "training graph": (lambda f: rewrite_graph(f, lambda m: m.training_info.add()), rf"{GRAPH}: a training graph"),
    "no opset": (lambda f: rewrite_graph(f, lambda m: m.ClearField("opset_import")), rf"{GRAPH}: no opset"),
    "endless loop": (lambda f: rewrite_graph(f, endless_loop), rf"{GRAPH}: operator 'Loop', allowed are Add, "),
    "name of several lines": (
        lambda f: rewrite_graph(f, lambda m: setattr(m.graph.input[0], "name", "a\nb\x1b")),
        rf"{GRAPH}: inputs: found a\\nb\\x1b int64",
    ),
    "unknown field of several lines": (
        lambda f: rewrite_manifest(f, lambda m: m.update({"a\nb": 1})),
        r"manifest.json: a\\nb: ",
    ),
    "more steps than can be told": (
        lambda f: rewrite_manifest(f, lambda m: m["training"].update(steps=2**64)),
        r"manifest.json: training.steps: ",
    ),
    "foreign operator": (lambda f: rewrite_graph(f, foreign_operator), r"operator 'Evil' of the domain 'com.example'"),
    "foreign operator in the loop": (lambda f: rewrite_graph(f, foreign_operator_in_the_loop), r"operator 'Evil'"),
    "another model's vocabulary": (
        lambda f: rewrite_manifest(f, lambda m: m.update(symbols=m["symbols"][::-1])),
        r"step.onnx: metadata charstream.vocabulary: found .*, expected ",
    ),
    "probe of one precision": (
        lambda f: rewrite_manifest(f, lambda m: m["probe"].pop("int8")),
        r"manifest.json: .*probe: has \['fp32'\], expected \['fp32', 'int8'\]",
    ),
    "probe without texts": (
        lambda f: rewrite_manifest(f, lambda m: m["probe"].update(fp32=[])),
        r"manifest.json: .*probe.fp32: expected 16 texts of at most 32 characters",
    ),
    "probe with a foreign character": (
        lambda f: rewrite_manifest(f, lambda m: m["probe"].update(fp32=["\u20ac"] * 16)),
        r"manifest.json: .*probe.fp32: '\u20ac' is not in the vocabulary",
    ),
    "weights beyond the promised bound": (
        lambda f: rewrite_graph(f, broken_promise),
        rf"{GRAPH}: tensor 'eight': weights 0 and 1 of column 0 are -100 and -100, beyond the bound 128",
    ),
    "newer opset": (
        lambda f: rewrite_graph(f, lambda m: setattr(m.opset_import[0], "version", 28)),
        rf"{GRAPH}: opset 28, supported are 17 to 20",
    ),
    "newer IR": (lambda f: rewrite_graph(f, lambda m: setattr(m, "ir_version", 14)), r"IR version 14, at most 10"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(folder: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    damage(folder)
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_message_stays_short_whatever_is_quoted(folder: Path) -> None:
    rewrite_manifest(folder, lambda m: m.update({"a" * 1_000_000: 1}))
    with pytest.raises(BundleError, match=r"a \.\.\.$") as caught:
        read_bundle(folder)
    assert len(str(caught.value)) < 1100


def test_what_is_no_file_is_not_waited_for(folder: Path) -> None:
    (folder / GRAPH).unlink()
    os.mkfifo(folder / GRAPH)
    with pytest.raises(BundleError, match=rf"{GRAPH}: is not a file"):
        read_bundle(folder)


def test_a_file_that_is_no_onnx(folder: Path) -> None:
    data = b"\xff" * 100
    (folder / GRAPH).write_bytes(data)
    rewrite_manifest(folder, lambda m: m["files"].update({GRAPH: {"sha256": sha256(data), "bytes": 100}}))
    with pytest.raises(BundleError, match="not an ONNX file"):
        read_bundle(folder)


def test_what_was_written_is_read(bundles: Path, tmp_path: Path) -> None:
    bundle = read_bundle(bundles / "tiny")
    write_bundle(tmp_path / "again", bundle.manifest, bundle.files)
    again = read_bundle(tmp_path / "again")
    assert again.digest == bundle.digest
    assert again.files == bundle.files


def test_writing_replaces_the_whole_folder_and_leaves_nothing_beside_it(bundles: Path, tmp_path: Path) -> None:
    bundle = read_bundle(bundles / "tiny")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "decode.int4.onnx").write_text("x")
    write_bundle(tmp_path / "b", bundle.manifest, bundle.files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
    assert not (tmp_path / "b" / "decode.int4.onnx").exists()


def test_a_folder_that_holds_anything_else_is_never_replaced(bundles: Path, tmp_path: Path) -> None:
    bundle = read_bundle(bundles / "tiny")
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(BundleError, match=r"holds thesis.txt, which is no part of a bundle"):
        write_bundle(tmp_path, bundle.manifest, bundle.files)
    assert (tmp_path / "thesis.txt").read_text() == "years"


DEVICE_GRAPH = "full.fp32-cuda.16.onnx"


@pytest.fixture
def device_folder(device_files: tuple[Manifest, dict[str, bytes]], tmp_path: Path) -> Path:
    write_bundle(tmp_path / "device", *device_files)
    return tmp_path / "device"


def put(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    rewrite_manifest(folder, lambda m: m["files"].update({name: {"sha256": sha256(data), "bytes": len(data)}}))


def with_a_loop(folder: Path) -> None:
    """A device would run it on the host, step by step."""
    model = onnx.load(folder / DEVICE_GRAPH)
    model.graph.node.add(op_type="Scan", name="x")
    put(folder, DEVICE_GRAPH, model.SerializeToString())


DEVICE_DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "one number of steps is not listed": (
        lambda f: rewrite_manifest(f, lambda m: m["files"].pop(DEVICE_GRAPH)),
        rf"manifest.json: files: {DEVICE_GRAPH} is missing",
    ),
    "one number of steps is not there": (lambda f: (f / DEVICE_GRAPH).unlink(), rf"{DEVICE_GRAPH}: No such file"),
    "another number of steps": (
        lambda f: put(f, DEVICE_GRAPH, (f / "full.fp32-cuda.4.onnx").read_bytes()),
        rf"{DEVICE_GRAPH}: inputs: found forced int64 \[4, 'B'\], expected forced int64 \[16, 'B'\]",
    ),
    "the graph that loops": (
        lambda f: put(f, DEVICE_GRAPH, (f / "full.fp32.onnx").read_bytes()),
        rf"{DEVICE_GRAPH}: operator 'Scan', allowed are Add, Cast, Clip, ",
    ),
    "a loop inside": (with_a_loop, rf"{DEVICE_GRAPH}: operator 'Scan', allowed are Add, Cast, Clip, "),
}


@pytest.mark.parametrize("case", DEVICE_DAMAGE)
def test_damage_of_a_graph_for_a_device_is_named(device_folder: Path, case: str) -> None:
    damage, message = DEVICE_DAMAGE[case]
    damage(device_folder)
    with pytest.raises(BundleError, match=message):
        read_bundle(device_folder)


def test_a_bundle_with_graphs_for_a_device_is_read(device_folder: Path) -> None:
    bundle = read_bundle(device_folder)
    assert bundle.manifest.precisions == ("fp32", "fp32-cuda", "fp16-cuda")
    assert sum("cuda" in name for name in bundle.files) == 2 * 2 * 3


def test_a_bundle_from_before_there_were_prompts_is_read_and_written_as_it_was(folder: Path) -> None:
    def forget(manifest: dict) -> None:
        assert manifest["training"].pop("prompts")

    rewrite_manifest(folder, forget)
    found = read_bundle(folder)
    assert found.manifest.training.prompts == ()
    write_bundle(folder, found.manifest, found.files)
    assert "prompts" not in (folder / "manifest.json").read_text()
