"""Exported files explain themselves, hold nothing twice, and are the same for the same model."""

from collections.abc import Callable

import onnx
import onnxruntime
import pytest

from bundle.graph_contract import DEVICE_STEPS
from bundle.read import STEP
from export.build import build
from tests.conftest import OTHER_CELLS
from tests.export.helpers import Files, weights_of

pytestmark = pytest.mark.slow


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
        assert b"modules.py" not in files[name], "paths of the exporting machine"
        assert sum(len(tensor.raw_data) for tensor in weights_of(model)) < manifest.files[STEP].bytes + 40_000
    assert manifest.files[STEP].bytes == len(files[STEP])


@pytest.mark.parametrize("cell", ["lstm", *OTHER_CELLS])
def test_onnxruntime_has_nothing_to_warn_of(
    cell: str, tiny_files: Files, cell_files: Callable[[str], Files], capfd: pytest.CaptureFixture[str]
) -> None:
    """It would tell of each constant that no operator reads; graphs of more steps read the same ones more often."""
    _, files = tiny_files if cell == "lstm" else cell_files(cell)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2
    capfd.readouterr()
    longest = f".{max(DEVICE_STEPS)}.onnx"  # takes onnxruntime longer to load than all others together
    for name in (name for name in files if name.endswith(".onnx") and not name.endswith(longest)):
        onnxruntime.InferenceSession(files[name], options, providers=["CPUExecutionProvider"])
        assert capfd.readouterr().err == "", name


def test_equal_models_give_equal_files(cell_files: Callable[[str], Files]) -> None:
    """The other files may be those of another process."""
    files = cell_files("rnn")[1]
    _, again = build(OTHER_CELLS["rnn"](), "cell", "1", ["fp32", "fp32-cuda"])
    graphs = {name: data for name, data in again.items() if name.endswith(".onnx")}
    assert len(graphs) == 3 + 2 * len(DEVICE_STEPS)
    assert graphs == {name: files[name] for name in graphs}
