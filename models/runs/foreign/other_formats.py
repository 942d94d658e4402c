"""The files of other frameworks, by how they begin or end, and how a model gets from there to here."""

import zipfile
from io import BytesIO
from pathlib import Path

__all__ = ["name_of_format"]

_HOW = (
    "build the same layers in PyTorch, copy its arrays into them and torch.save(model.state_dict(), FILE); "
    'docs/training.md, "From other frameworks", has the order of the gates'
)
_BEGINNINGS = {b"\x89HDF\r\n": "an HDF5 file, as Keras writes them", b"GGUF": "a GGUF file"}
_ENDINGS = {
    ".onnx": "an ONNX file",
    ".tflite": "a TensorFlow Lite file",
    ".pb": "a file of TensorFlow",
    ".index": "a checkpoint of TensorFlow",
    ".data-00000-of-00001": "a checkpoint of TensorFlow",
    ".t7": "a file of Torch 7 (Lua)",
    ".msgpack": "a checkpoint of Flax",
}


def name_of_format(file: Path, data: bytes) -> str | None:
    """Return which other framework's a file is and what to do; None if it is not known to be any's."""
    names = _names_in_zip(data)
    if "model.weights.h5" in names:
        return f"a model of Keras 3: {_HOW}"
    known = [what for begin, what in _BEGINNINGS.items() if data.startswith(begin)]
    known += [what for end, what in _ENDINGS.items() if file.name.endswith(end)]
    return f"{known[0]}: {_HOW}" if known else None


def _names_in_zip(data: bytes) -> list[str]:
    if not data.startswith(b"PK\x03\x04"):
        return []
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return archive.namelist()
    except Exception:  # it is damaged, as its readers will say
        return []
