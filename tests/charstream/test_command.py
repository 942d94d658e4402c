"""The command finds its parts, lazily, and serving never drags in training."""

import json
import subprocess
import sys

import pytest

from charstream.__main__ import COMMANDS, main

TRAINING = ("torch", "onnx", "onnxscript", "models", "export")


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=120)


def loaded_modules(statement: str) -> set[str]:
    """Top-level modules that a fresh process has after the statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_the_server_needs_no_training() -> None:
    assert not loaded_modules("import server.__main__, server.lifecycle").intersection(TRAINING)


def test_the_client_needs_neither_training_nor_serving() -> None:
    assert not loaded_modules("import client.stream").intersection(
        (*TRAINING, "server", "bundle", "onnxruntime", "numpy")
    )


def test_the_dispatcher_imports_nothing_before_it_knows_the_command() -> None:
    loaded = loaded_modules("import charstream.__main__")
    assert not loaded.intersection((*TRAINING, "server", "client", "grpc", "numpy", "pydantic"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = run("-m", "charstream", command, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: charstream {command}")


@pytest.mark.parametrize(
    "module",
    ["models.data", "models.train", "export", "export.verify", "server", "client.stream", "client.models", "loadtest"],
)
def test_every_part_runs_by_itself(module: str) -> None:
    result = run("-m", module, "--help")
    assert result.returncode == 0, result.stderr
    assert "usage: charstream" in result.stdout


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "no command 'trian'" in capsys.readouterr().err


def test_usage_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
