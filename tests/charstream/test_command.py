"""The command finds its parts, lazily, and serving never drags in training."""

import json
import os
import platform
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from charstream import __main__ as command
from charstream import versions
from charstream.__main__ import COMMANDS, main
from tests.conftest import Charstream

TRAINING = ("torch", "onnx", "onnxscript", "models", "export")


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=120)


def loaded_modules(statement: str) -> set[str]:
    """Return the top-level modules that a fresh process has after the statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_the_server_needs_no_training() -> None:
    assert not loaded_modules("import server.__main__, server.server").intersection(TRAINING)


def test_the_client_needs_neither_training_nor_serving() -> None:
    assert not loaded_modules("import client.commands.stream").intersection(
        (*TRAINING, "server", "bundle", "onnxruntime", "numpy")
    )


def test_the_dispatcher_imports_nothing_before_it_knows_the_command() -> None:
    loaded = loaded_modules("import charstream.__main__")
    assert not loaded.intersection((*TRAINING, "server", "client", "grpc", "numpy", "pydantic"))


def test_the_version_names_all_that_matters_and_imports_none_of_it() -> None:
    result = run("-m", "charstream", "--version")
    assert (result.returncode, result.stderr) == (0, "")
    told = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert told["grpcio"] == version("grpcio")
    assert told["Python"].startswith(platform.python_version())
    assert {"charstream", "protobuf", "numpy", "processor", "providers", "instructions"} <= told.keys()
    loaded = loaded_modules("from charstream.__main__ import main; main(['--version'])")
    assert not loaded.intersection((*TRAINING, "server", "client", "grpc", "google", "numpy", "onnxruntime", "locust"))


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_tile\n\n", "AVX2, AVX-512, VNNI, AMX"),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n", "NEON, DOTPROD, I8MM"),
        (None, "unknown"),
    ],
)
def test_the_version_names_theinstruction_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, expected: str
) -> None:
    if cpuinfo:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(versions, "CPUINFO", tmp_path / "cpuinfo")
    assert f"\ninstructions    {expected}" in versions.describe_installation()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(charstream: Charstream, command: str) -> None:
    result = charstream(command, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: charstream {command}")


@pytest.mark.parametrize(
    "module",
    [
        "models.data.command",
        "models.train",
        "export",
        "export.verify",
        "server",
        "client.commands.stream",
        "client.commands.score",
        "client.commands.models",
        "loadtest",
    ],
)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_part_runs_by_itself(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `python -m` does it, in a process that has imported torch already."""
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert not ended.value.code
    assert "usage: charstream" in capsys.readouterr().out


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    for word, nearest in [("trian", "train"), ("stre", "stream"), ("eval", "evaluate")]:
        assert main([word]) == 2
        assert f"no command '{word}'; the nearest is {nearest};" in capsys.readouterr().err
    assert main(["xyz"]) == 2
    assert "nearest" not in capsys.readouterr().err
    assert main(["--hlep"]) == 2
    assert capsys.readouterr().err == (
        "charstream: no command '--hlep'; the nearest is --help; --help lists the commands\n"
    )


def test_help_before_a_command_is_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["help", "completion"])
    assert capsys.readouterr().out.startswith("usage: charstream completion")
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: charstream COMMAND")
    assert main(["help", "strem"]) == 2
    assert "the nearest is stream" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["stream", "To", "be"], "be; a prompt of several words stands in quotes; see"),
        (["models", "localhost"], "localhost; a server's address is --host HOST:PORT; see"),
        (["serve", "bundles/demo"], "bundles/demo; models are --models FOLDER, those that come with charstream"),
        (["demo", "a.txt"], "a.txt; the text is --data FILE"),
        (["advise", "a.txt"], "a.txt; the text is --data FILE"),
        (["train", "a.txt"], "a.txt; the text is --data FILE"),
        (["search", "a.txt"], "a.txt; the text is --data FILE"),
        (["export", "runs/a", "bundles/a"], "bundles/a; the bundle's folder is --out FOLDER; see"),
        (["stream", "To", "be", "--temprature", "1"], "; the nearest is --temperature; see"),
        (["train"], "--out: is missing: folder of the run"),
    ],
)
def test_a_word_at_the_wrong_place_is_told_where_it_belongs(
    argv: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert meant in said
    assert said.count("\n") == 1


def test_usage_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("a line of text\n" * 20)
    return path


@pytest.mark.parametrize("argv", [["--help"], ["data", "--help"], ["data", "TEXT"]])
def test_a_reader_that_left_ends_any_command_quietly(text: Path, argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    argv = [str(text) if part == "TEXT" else part for part in argv]
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "charstream", *argv], stdout=closed, stderr=subprocess.PIPE, timeout=60
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_an_output_that_cannot_be_written_is_one_line(text: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "charstream", "data", str(text)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "charstream data: No space left on device\n")


def test_a_file_that_cannot_be_written_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("-m", "charstream", "loadtest", "--report", str(tmp_path / "file" / "report"))
    assert done.returncode == 2
    report = f"{tmp_path}/file/report"
    assert done.stderr == f"charstream loadtest: --report {report}: not a directory; name another folder\n"


def test_ctrl_c_ends_any_command_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Sequence[str]) -> int:
        signal.raise_signal(signal.SIGINT)
        return 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(command.importlib, "import_module", lambda _: SimpleNamespace(main=interrupted))
    try:
        assert main(["data"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == ""
