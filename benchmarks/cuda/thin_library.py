"""onnxruntime's library for CUDA with the machine code of one architecture, of onnxruntime's own kernels only.

    python -m benchmarks.cuda.thin_library KERNELS LIBRARY OUT [--architecture 90]

218 MB of code become 3 MB, and the file 10 MB as xz. KERNELS is what the fake CUDA of tests/cuda_dry/ writes to
$FAKE_FATBINS when it loads the library: which kernel lies in which block. All else is zeros, which a driver does not
look at unless a kernel is launched from there: char-RNNs launch no attention and no convolution.
"""

import argparse
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["thin_library"]

SECTION = ".nv_fatbin"
# The head of a block: magic number, version, size of the head, size of all parts. Blocks begin at multiples of 8.
BLOCK, MAGIC, ALIGNMENT = struct.Struct("<IHHQ"), 0xBA55ED50, 8
# The head of a part: its kind, size of the head, size, and, after other numbers, its architecture.
PART = struct.Struct("<HHIQIIHHI")
OWN, OTHERS = "11onnxruntime4cuda", ("contrib", "cutlass", "flash", "llm")


class Section(NamedTuple):
    """Where a section lies: its address when loaded, its offset in the file, its size."""

    address: int
    offset: int
    size: int


def thin_library(library: Path, kernels: Path, architecture: int) -> tuple[bytes, int]:
    """Return the library with zeros in the place of what is not wanted, and the bytes of machine code that are left."""
    section = _section(library)
    names = defaultdict[int, set[str]](set)
    for line in kernels.read_text().splitlines():
        file, place, name = line.split("\t")
        if Path(file).name == library.name:
            names[int(place) - section.address + section.offset].add(name)
    data, kept = bytearray(library.read_bytes()), 0
    for block, begin, size, found in _parts(data, section):
        if found == architecture and _is_wanted(names[block]):
            kept += size
        else:
            data[begin : begin + size] = bytes(size)
    return bytes(data), kept


def _is_wanted(names: set[str]) -> bool:
    return any(OWN in name for name in names) and not any(word in name for name in names for word in OTHERS)


def _section(library: Path) -> Section:
    listing = subprocess.run(["readelf", "-SW", str(library)], capture_output=True, text=True, check=True).stdout
    words = next(line.split() for line in listing.replace("[ ", "[").splitlines() if f"{SECTION} " in line)
    at = words.index(SECTION)
    return Section(*(int(word, 16) for word in words[at + 2 : at + 5]))


def _parts(data: bytearray, section: Section) -> Iterator[tuple[int, int, int, int]]:
    """Yield the offset of each part's block, of its content, its size and its architecture."""
    block, end = section.offset, section.offset + section.size
    while block < end:
        magic, _, head, size = BLOCK.unpack_from(data, block)
        if magic != MAGIC:
            block += ALIGNMENT
            continue
        part = block + head
        while part < block + head + size:
            _, _, part_head, part_size, *_, architecture = PART.unpack_from(data, part)
            yield block, part + part_head, part_size, architecture
            part += part_head + part_size
        block += head + size


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", type=Path)
    parser.add_argument("library", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--architecture", type=int, default=90, help="90: H100, H200")
    given = parser.parse_args(argv)
    data, kept = thin_library(given.library, given.kernels, given.architecture)
    if not kept:
        print(f"{given.library} has no code for {given.architecture}", file=sys.stderr)
        return 1
    given.out.write_bytes(data)
    print(f"{kept / 1e6:.1f} MB of machine code are left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
