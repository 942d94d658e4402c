"""What is carried to a machine with a GPU and without a package index: it unpacks there, and measures."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cuda import pack
from benchmarks.cuda.thin_library import thin_library
from server.runtime.host_runner import has_cuda

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_an_archive_unpacks_and_measures_elsewhere(device_bundles: Path, tmp_path: Path) -> None:
    """A rehearsal on the CPU; the last line is JSON, and so is what is left in results."""
    if not shutil.which("git") or not (pack.ROOT / ".git").exists():
        pytest.skip("the archive has this source as git has it, and this is no clone")
    text, archive = tmp_path / "text.txt", tmp_path / "cuda.tar.xz"
    text.write_text("the sea is low tonight and cafés close at one\n" * 400)
    given = ("--bundle", str(device_bundles / "tiny"), "--data", str(text), "--provider", "cpu")
    assert pack.main([*given, "--out", str(archive)]) == 0
    there = tmp_path / "there"
    variables = os.environ | {"PYTHON": sys.executable}

    def unpack(*flags: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", tmp_path / "unpack.sh", archive, there, *flags]
        return subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path, timeout=800)

    # So long that no part is cut off on a busy machine.
    sizes = ("--rows", "8", "--seconds", "0.05", "--precision", "fp32-cuda", "--short", "3600")
    result = unpack("--provider", "cpu", *sizes, "--part", "smoke", "--part", "graph")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["failed"] == {}
    assert {figure["name"] for figure in document["figures"]} == {"smoke", "graph"}
    assert json.loads((there / "results" / "result.json").read_text()) == document
    if not has_cuda():
        result = unpack()
        assert result.returncode == 1
        assert result.stderr.startswith("unpack.sh: provider cuda: this onnxruntime has no CUDA"), result.stderr


def test_a_folder_that_is_not_there_is_said_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        pack.main(["--out", str(tmp_path / "none" / "cuda.tar.xz")])
    assert ended.value.code == 2
    assert f"there is no folder {tmp_path / 'none'}" in capsys.readouterr().err


def part(architecture: int, content: bytes) -> bytes:
    """Return machine code with its head, as it lies in a block: 64 bytes, of which few are looked at."""
    return struct.pack("<HHIQIIHHI", 2, 0x101, 64, len(content), 0, 0, 0, 0, architecture).ljust(64, b"\1") + content


def block(*parts: bytes) -> bytes:
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, sum(map(len, parts))) + b"".join(parts)


def test_a_thin_library_has_the_code_of_one_architecture_of_onnxruntimes_own_kernels(tmp_path: Path) -> None:
    """All else is zeros; nothing moves, so the library loads as before."""
    if not shutil.which("gcc") or not shutil.which("readelf"):
        pytest.skip("no gcc, which makes the library, or no readelf, which finds the code in it")
    codes = [bytes([number]) * 40 for number in range(11, 15)]
    section = block(part(80, codes[0]), part(90, codes[1])) + bytes(8) + block(part(90, codes[2]), part(90, codes[3]))
    source, library, kernels = (tmp_path / name for name in ("code.s", "library.so", "kernels"))
    source.write_text(f'.section .nv_fatbin,"a"\n.balign 8\n.byte {",".join(map(str, section))}\n')
    subprocess.run(["gcc", "-shared", "-nostdlib", "-o", library, source], check=True)
    listing = subprocess.run(["readelf", "-SW", library], capture_output=True, text=True, check=True).stdout
    words = listing[listing.index(".nv_fatbin") :].split()
    first = int(words[2], 16)
    second = first + section.index(block(part(90, codes[2]), part(90, codes[3])))
    names = (first, "_ZN11onnxruntime4cuda6Gather"), (second, "_ZN11onnxruntime7contrib4cuda5flash")
    kernels.write_text("".join(f"{library}\t{address}\t{name}\n" for address, name in names))
    data, kept = thin_library(library, kernels, 90)
    assert kept == 40
    assert [code in data for code in codes] == [False, True, False, False]
    whole = library.read_bytes()
    for code in (codes[0], codes[2], codes[3]):
        whole = whole.replace(code, bytes(40))
    assert data == whole
