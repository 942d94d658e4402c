"""Read a bundle. Everything is checked before anything is used."""

import stat
from collections.abc import Set
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from pydantic import ValidationError

from bundle.graph_contract import (
    DEVICE_OPERATORS,
    DEVICE_STEPS,
    OPERATORS,
    GraphError,
    TensorSpec,
    check_graph,
    decode_inputs,
    decode_outputs,
    device_inputs,
    device_outputs,
    full_inputs,
    full_outputs,
    step_inputs,
    step_outputs,
)
from bundle.manifest import FORMAT, ON_DEVICE, Manifest, sha256

__all__ = [
    "CARD",
    "MANIFEST",
    "STEP",
    "Bundle",
    "BundleError",
    "decode_file",
    "full_file",
    "read_bundle",
    "read_file",
    "read_manifest",
]

MANIFEST = "manifest.json"
STEP = "step.onnx"
CARD = "card.md"
_MAX_MANIFEST_BYTES = 8 << 20
_MAX_MESSAGE_CHARS = 1000
# The inputs, the outputs and the allowed operators of a graph.
_GraphSpec = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], Set[str]]


class BundleError(ValueError):
    """A folder is not a usable bundle. The message is one line that names the file and the fault."""

    def __init__(self, message: str) -> None:
        # The message quotes the files, whose content is not trusted.
        super().__init__(_one_line(message))


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. `digest`: sha256 of the manifest, which holds the sha256 of every file."""

    folder: Path
    manifest: Manifest
    digest: str
    files: dict[str, bytes]


def _one_line(message: str) -> str:
    printable = "".join(char if char.isprintable() else repr(char)[1:-1] for char in message[:_MAX_MESSAGE_CHARS])
    return printable if len(message) <= _MAX_MESSAGE_CHARS else f"{printable} ..."


def decode_file(precision: str, steps: int | None = None) -> str:
    """Return the name of the decode graph's file; a precision for a device has one for each number of steps."""
    return f"decode.{_variant(precision, steps)}.onnx"


def full_file(precision: str, steps: int | None = None) -> str:
    """Return the name of the full graph's file, as `decode_file`."""
    return f"full.{_variant(precision, steps)}.onnx"


def _variant(precision: str, steps: int | None) -> str:
    return precision if steps is None else f"{precision}.{steps}"


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check all of its files.

    Raises:
        BundleError: if a file is missing, unreadable, changed, or not what the manifest and the format ask for.
    """
    manifest, digest = read_manifest(folder)
    files = {name: _read_checked(folder, name, manifest) for name in manifest.files}
    _check_graphs(folder, manifest, files)
    return Bundle(folder, manifest, digest, files)


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Return the manifest and the sha256 of its file. Raises BundleError."""
    data = _read(folder, MANIFEST, _MAX_MANIFEST_BYTES)
    return _parse(folder, data), sha256(data)


def read_file(folder: Path, name: str, manifest: Manifest) -> bytes | None:
    """Return one file of a bundle, None if the manifest has no such file. Raises BundleError as `read_bundle`."""
    return _read_checked(folder, name, manifest) if name in manifest.files else None


def _read(folder: Path, name: str, limit: int) -> bytes:
    try:
        found = (folder / name).stat()
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{folder / name}: is not a file")
        if found.st_size > limit:
            raise BundleError(f"{folder / name}: {found.st_size} bytes, at most {limit} are expected")
        return (folder / name).read_bytes()
    except OSError as error:
        raise BundleError(f"{folder / name}: {error.strerror or error}") from None


def _parse(folder: Path, data: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        # A manifest of another format fails in many places: name the one that explains the others.
        errors = error.errors()
        first = next((e for e in errors if e["loc"] == ("format",)), errors[0])
        place = ".".join(map(str, first["loc"])) or f"not a manifest of format {FORMAT}"
        raise BundleError(f"{folder / MANIFEST}: {place}: {first['msg'].removeprefix('Value error, ')}") from None


def _read_checked(folder: Path, name: str, manifest: Manifest) -> bytes:
    record = manifest.files[name]
    data = _read(folder, name, record.bytes)
    if len(data) != record.bytes:
        raise BundleError(f"{folder / name}: {len(data)} bytes, the manifest says {record.bytes}")
    if sha256(data) != record.sha256:
        raise BundleError(f"{folder / name}: its sha256 is not the manifest's, the file was changed or damaged")
    return data


def _model_metadata(manifest: Manifest) -> dict[str, str]:
    """Return the metadata by which a file is this model's, without name and version: only the manifest says these."""
    names = ("charstream.model", "charstream.unit", "charstream.vocabulary", "charstream.start_text")
    return {name: value for name, value in manifest.metadata().items() if name in names}


def _check_graphs(folder: Path, manifest: Manifest, files: dict[str, bytes]) -> None:
    for name, (inputs, outputs, operators) in _expected_graphs(manifest).items():
        if name not in files:
            raise BundleError(f"{folder / MANIFEST}: files: {name} is missing")
        try:
            check_graph(files[name], inputs, outputs, _model_metadata(manifest), operators)
        except GraphError as error:
            raise BundleError(f"{folder / name}: {error}") from None


def _expected_graphs(manifest: Manifest) -> dict[str, _GraphSpec]:
    """Return the contract of every ONNX file, by name."""
    shape, vocab = manifest.model, len(manifest.symbols)
    loops = {
        decode_file: (decode_inputs(shape), decode_outputs(shape)),
        full_file: (full_inputs(shape, vocab), full_outputs(shape, vocab)),
    }
    expected: dict[str, _GraphSpec] = {STEP: (step_inputs(shape), step_outputs(shape, vocab), OPERATORS)}
    for precision, (file, (inputs, outputs)) in product(manifest.precisions, loops.items()):
        if precision not in ON_DEVICE:
            expected[file(precision)] = (inputs, outputs, OPERATORS)
            continue
        for steps in DEVICE_STEPS:
            specs = device_inputs(shape, inputs, steps), device_outputs(outputs, steps)
            expected[file(precision, steps)] = (*specs, DEVICE_OPERATORS)
    return expected
