"""onnxruntime's library for CUDA with the machine code of one architecture, of onnxruntime's own kernels only.

219 MB of code become 3 MB, and the library some 10 MB of an archive. All else is zeros, which a driver does not look at
unless a kernel is launched from there: char-RNNs launch neither attention nor convolutions.
"""

import struct
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["thin_library"]

SECTION = ".nv_fatbin"
# The head of a block: magic number, version, size of the head, size of all parts. Blocks begin at multiples of 8.
BLOCK, MAGIC, ALIGNMENT = struct.Struct("<IHHQ"), 0xBA55ED50, 8
# The head of a part: its kind, a version, size of the head, size, and, after other numbers, its architecture.
PART = struct.Struct("<HHIQIIHHI")
OWN, OTHERS = "11onnxruntime4cuda", ("contrib", "cutlass", "flash", "llm")


class Section(NamedTuple):
    """Where a section lies: its address when loaded, its offset in the file, its size."""

    address: int
    offset: int
    size: int


class Part(NamedTuple):
    """Machine code for one architecture: the offset of its block, its own offset and size."""

    block: int
    begin: int
    size: int
    architecture: int


def thin_library(library: Path, kernels: Path, architecture: int) -> tuple[bytes, int]:
    """Return the library with zeros in the place of what is not wanted, and the bytes of machine code that are left.

    Args:
        kernels: which kernel lies in which block, as the fake CUDA writes it to $FAKE_FATBINS when the library is
            loaded: lines "library<TAB>address of the block<TAB>kernel".
        architecture: 90 for H100 and H200.
    """
    section = _section(library)
    names = defaultdict[int, set[str]](set)
    for line in kernels.read_text().splitlines():
        file, address, name = line.split("\t")
        if Path(file).name == library.name:
            names[int(address) - section.address + section.offset].add(name)
    data, kept = bytearray(library.read_bytes()), 0
    for part in _parts(data, section):
        if part.architecture == architecture and _is_wanted(names[part.block]):
            kept += part.size
        else:
            data[part.begin : part.begin + part.size] = bytes(part.size)
    return bytes(data), kept


def _is_wanted(names: set[str]) -> bool:
    return any(OWN in name for name in names) and not any(word in name for name in names for word in OTHERS)


def _section(library: Path) -> Section:
    listing = subprocess.run(["readelf", "-SW", str(library)], capture_output=True, text=True, check=True).stdout
    words = next(line.split() for line in listing.splitlines() if f"{SECTION} " in line)
    at = words.index(SECTION)
    return Section(*(int(word, 16) for word in words[at + 2 : at + 5]))


def _parts(data: bytearray, section: Section) -> Iterator[Part]:
    block, end = section.offset, section.offset + section.size
    while block < end:
        magic, _, head, size = BLOCK.unpack_from(data, block)
        if magic != MAGIC:
            block += ALIGNMENT
            continue
        part = block + head
        while part < block + head + size:
            _, _, part_head, part_size, *_, architecture = PART.unpack_from(data, part)
            yield Part(block, part + part_head, part_size, architecture)
            part += part_head + part_size
        block += head + size
