"""A folder with good and bad bundles: the good ones are served, the bad ones are named."""

import os
import re
import shutil
from pathlib import Path

import grpc
import pytest
import torch

from bundle.graph_contract import decode_inputs, decode_outputs
from bundle.manifest import Manifest, Precision
from bundle.read import MANIFEST, decode_file, read_bundle
from bundle.write import file_records, write_bundle
from export.graph.modules import DecodeGraph, StepGraph
from export.onnx_file import to_onnx
from models.network.char_lm import CharLM
from models.training.checkpoint import Trained
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ready, start_server, stop, tiny_model


def loop_of(model: CharLM, manifest: Manifest, precision: Precision) -> bytes:
    """Another model's decode loop that says it were the manifest's."""
    config = model.config
    step = StepGraph(model).eval()
    shape = manifest.model.model_copy(update={"layers": config.layers, "hidden": config.hidden})
    graph = DecodeGraph(step.in_precision(precision), config.vocab)
    example = (torch.zeros(3, dtype=torch.int64), torch.full((2, 3), -1), torch.full((2, 3), 0.5), torch.ones(3))
    state = model.initial_state(3)
    return to_onnx(graph, (*example, *state), decode_inputs(shape), decode_outputs(shape), manifest.metadata())


def write_mixed(folder: Path, manifest: Manifest, files: dict[str, bytes]) -> None:
    write_bundle(folder, manifest.model_copy(update={"files": file_records(files)}), files)


@pytest.mark.parametrize(
    ("characters", "complaint"),
    [(-1, "onnxruntime: "), (1, "the probe leads to characters"), (0, "the probe's row 0 is .* the manifest says")],
)
def test_a_loop_of_another_model_is_not_served(
    tiny_files: tuple[Manifest, dict[str, bytes]], tiny: Trained, tmp_path: Path, characters: int, complaint: str
) -> None:
    """Its tensors look right and its metadata lies: only running it tells."""
    manifest, files = tiny_files
    torch.manual_seed(1)
    other = CharLM(tiny.model.config.model_copy(update={"vocab": len(manifest.symbols) + characters}))
    with torch.no_grad():
        other.head.bias[-1] += 5  # the last character is probable
    decode = loop_of(other, manifest, "fp32")
    write_mixed(tmp_path / "mixed", manifest, {**files, decode_file("fp32"): decode})
    server = start_server(tmp_path, "--precision", "fp32")
    try:
        assert server.wait() == 1
        server.wait_for(rf"not served: \S+/mixed: {complaint}")
        assert "Traceback" not in server.log
    finally:
        stop(server)


def test_eight_bits_that_do_not_compute_give_way_to_float32(
    tiny_files: tuple[Manifest, dict[str, bytes]], tmp_path: Path
) -> None:
    manifest, files = tiny_files
    decode = loop_of(tiny_model(seed=1).model, manifest, "int8")
    write_mixed(tmp_path / "mixed", manifest, {**files, decode_file("int8"): decode})
    server = start_server(tmp_path)
    try:
        ready(server)
        server.wait_for("tiny: int8 on cpu does not work here, fp32 on cpu is tried: the probe's row")
        with grpc.insecure_channel(server.address) as channel:
            assert pb_grpc.ModelsStub(channel).GetModel(pb.GetModelRequest(name="tiny")).precision == "fp32"
    finally:
        stop(server)
    strict = start_server(tmp_path, "--precision", "int8")
    try:
        assert strict.wait() == 1
        strict.wait_for(r"not served: \S+/mixed: the probe's row")
    finally:
        stop(strict)


def test_a_precision_that_the_bundle_lacks_is_named(
    tiny_files: tuple[Manifest, dict[str, bytes]], tmp_path: Path
) -> None:
    manifest, files = tiny_files
    only = manifest.model_copy(update={"precisions": ("fp32",), "probe": {"fp32": manifest.probe["fp32"]}})
    write_mixed(tmp_path / "tiny", only, {name: data for name, data in files.items() if "int8" not in name})
    server = start_server(tmp_path, "--precision", "int8")
    try:
        assert server.wait() == 1
        server.wait_for("--precision int8: the bundle has fp32")
    finally:
        stop(server)


@pytest.fixture
def folder(bundles: Path, tmp_path: Path) -> Path:
    """The bundles "tiny" and "other", a copy of tiny under another folder's name, and one with a changed byte."""
    tiny = read_bundle(bundles / "tiny")
    write_bundle(tmp_path / "tiny", tiny.manifest, tiny.files)
    write_bundle(tmp_path / "other", tiny.manifest.model_copy(update={"name": "other"}), tiny.files)
    shutil.copytree(tmp_path / "tiny", tmp_path / "twin")
    broken = Path(shutil.copytree(tmp_path / "tiny", tmp_path / "broken"))
    (broken / "step.onnx").write_bytes(b"x" + (broken / "step.onnx").read_bytes()[1:])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo").touch()
    (tmp_path / "README").write_text("not a bundle")
    return tmp_path


def test_bad_bundles_are_named_and_the_others_served(folder: Path) -> None:
    server = ready(start_server(folder))
    try:
        server.wait_for(r"not served: \S+/broken/step.onnx: its sha256 is not the manifest's")
        server.wait_for(r"not served: \S+/notes/manifest.json: No such file")
        server.wait_for(r"not served: \S+/twin: \S+/tiny is tiny 1 too")
        with grpc.insecure_channel(server.address) as channel:
            names = [m.name for m in pb_grpc.ModelsStub(channel).ListModels(pb.ListModelsRequest()).models]
            assert sorted(names) == ["other", "tiny"]
            stub = pb_grpc.TextGenerationStub(channel)
            texts = [
                "".join(r.text for r in stub.Generate(pb.GenerateRequest(model=name, seed=1, max_chars=50)))
                for name in names
            ]
            assert texts[0] == texts[1] != ""
    finally:
        stop(server)


def test_an_error_names_some_of_many_models(bundles: Path, tmp_path: Path) -> None:
    """All of them would be more than clients take of a status, and they would say RESOURCE_EXHAUSTED instead."""
    for number in range(100):
        name = f"{number:03d}".ljust(64, "x")
        folder = Path(shutil.copytree(bundles / "tiny", tmp_path / name, copy_function=os.link))
        manifest = (folder / MANIFEST).read_text().replace('"name": "tiny"', f'"name": "{name}"')
        (folder / MANIFEST).unlink()
        (folder / MANIFEST).write_text(manifest)
    server = ready(start_server(tmp_path, "--load", "lazy"))
    try:
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
            list(pb_grpc.TextGenerationStub(channel).Generate(pb.GenerateRequest(model="tiny")))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert re.search("served are 000x+, .*, 007x+ and 92 more$", caught.value.details())
    finally:
        stop(server)


@pytest.mark.parametrize(
    ("folder_name", "message"), [("missing", "No such file"), ("empty", "holds no bundle that can be served")]
)
def test_nothing_to_serve_ends_with_one_line(tmp_path: Path, folder_name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    server = start_server(tmp_path / folder_name)
    try:
        assert server.wait() == 1
        server.wait_for(f"charstream serve: --models .*{message}.* --pretrained serves what came with it")
        assert "Traceback" not in server.log
    finally:
        stop(server)


def test_one_bundle_may_be_named_itself(bundles: Path) -> None:
    server = start_server(bundles / "tiny")
    try:
        ready(server)
    finally:
        stop(server)


def test_two_onnxruntimes_are_one_too_many(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip installs onnxruntime-gpu over onnxruntime without a word; CUDA is gone then."""
    for name in ("onnxruntime", "onnxruntime_gpu"):
        (tmp_path / f"{name}-1.31.1.dist-info").mkdir()
        (tmp_path / f"{name}-1.31.1.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1.31.1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = start_server(bundles)
    try:
        assert server.wait() == 1
        server.wait_for("onnxruntime and onnxruntime-gpu are both installed .*pip uninstall")
    finally:
        stop(server)


def test_cuda_that_cannot_be_had_is_an_error_not_a_silent_cpu(device_bundles: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    server = start_server(device_bundles, "--provider", "cuda")
    try:
        assert server.wait() == 1
        server.wait_for("fp16-cuda on cuda does not work here, fp32-cuda on cuda is tried")
        server.wait_for("not served: .*: provider cuda: this onnxruntime has no CUDA: pip install")
        assert "Traceback" not in server.log
    finally:
        stop(server)


def test_cuda_needs_graphs_for_it(bundles: Path) -> None:
    server = start_server(bundles, "--provider", "cuda")
    try:
        assert server.wait() == 1
        server.wait_for("--provider cuda: the bundle has fp32 and int8, none of them for a device: charstream export")
    finally:
        stop(server)
