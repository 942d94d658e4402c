"""Which instructions multiply 8 bits: fast ones where a file keeps the pair bound, else slower ones that are exact."""

import onnx
import pytest

from bundle.graph_contract import decode_inputs, decode_outputs
from bundle.manifest import Manifest
from bundle.pair_bound import METADATA
from bundle.read import decode_file
from server.runtime import host_runner
from server.runtime.host_runner import Graph, sums_are_exact

SWITCH = "session.x64quantprecision"


def is_switched(manifest: Manifest, data: bytes) -> bool:
    """Return whether onnxruntime is told to rewrite the weights for the slower instructions."""
    shape = manifest.model
    graph = Graph(data, decode_inputs(shape), decode_outputs(shape), threads=1)
    try:
        return bool(graph._session.get_session_options().get_session_config_entry(SWITCH) == "1")
    except RuntimeError:  # there is no such entry
        return False


def without_promise(data: bytes) -> bytes:
    """Return the file as older versions wrote it."""
    model = onnx.load_from_string(data)
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key not in METADATA}
    onnx.helper.set_model_props(model, kept)
    return model.SerializeToString()


def test_this_processor_adds_bounded_pairs_exactly() -> None:
    assert sums_are_exact(is_bounded=True)


def test_fast_instructions_are_for_weights_of_which_sums_are_exact(
    tiny_files: tuple[Manifest, dict[str, bytes]],
) -> None:
    """Without the bound that depends on the processor: with VNNI nothing saturates."""
    manifest, files = tiny_files
    data = files[decode_file("int8")]
    assert not is_switched(manifest, data)
    assert is_switched(manifest, without_promise(data)) is not sums_are_exact(is_bounded=False)


@pytest.mark.parametrize("promise", [True, False])
def test_where_sums_are_not_exact_the_slower_instructions_are_taken(
    promise: bool, tiny_files: tuple[Manifest, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a processor without VNNI, where weights without the bound saturate."""
    manifest, files = tiny_files
    data = files[decode_file("int8")]
    monkeypatch.setattr(host_runner, "sums_are_exact", lambda *, is_bounded: is_bounded and not promise)
    assert is_switched(manifest, data if promise else without_promise(data))
