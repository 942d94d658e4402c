"""The Dockerfile's steps, done without Docker: its target `cpu` installs enough to serve, and no torch.

The RUN lines are the file's own, with its folders moved into a temporary one.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import trustme

from client import Client
from tests.conftest import ServerProcess, ready, start_server, stop
from tests.server.authority import issue

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TRAINING = ("torch", "onnx", "onnxscript", "locust")


def stage(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of one stage."""
    text = (ROOT / "Dockerfile").read_text()
    stages = re.split(r"^FROM \S+ AS (\w+)$", text, flags=re.MULTILINE)
    body = dict(zip(stages[1::2], stages[2::2], strict=True))[name]
    return [tuple(line.split(" ", 1)) for line in body.splitlines() if line and not line.startswith("#")]  # type: ignore[misc]


def runs(name: str) -> list[str]:
    return [arguments for instruction, arguments in stage(name) if instruction == "RUN"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source, /dist and /opt of the target `cpu`."""
    folder = tmp_path_factory.mktemp("image")
    ignored = shutil.ignore_patterns(*(ROOT / ".dockerignore").read_text().split(), "__pycache__")
    shutil.copytree(ROOT, folder / "src", ignore=ignored)
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    for index, command in enumerate([*runs("wheel"), *runs("cpu")]):
        if index == len(runs("wheel")):
            shutil.copy(ROOT / "constraints.txt", folder / "dist")
        moved = re.sub(r"(?<![\w.])/(dist|opt)\b", rf"{folder}/\1", command)
        done = subprocess.run(
            ["bash", "-euc", moved], cwd=folder / "src", env=environment, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_image_serves_without_torch(image: Path, bundles: Path) -> None:
    python = image / "opt" / "charstream" / "bin" / "python"
    for module in TRAINING:
        found = subprocess.run([python, "-c", f"import {module}"], cwd=image, capture_output=True, text=True)
        assert "ModuleNotFoundError" in found.stderr, module
    server = serve(image, bundles, CHARSTREAM_INSECURE="true", CHARSTREAM_HTTP_PORT="0")
    try:
        ready(server)
        with Client(server.address) as client, client.stream("Hello", max_chars=50, seed=1) as stream:
            assert len("".join(stream)) == 50
        assert health(image, server) == 0
        playground = httpx.get(f"http://127.0.0.1:{server.web.rpartition(':')[2]}/playground/main.js")
        assert playground.headers["content-type"].startswith("text/javascript")
    finally:
        stop(server)
    assert health(image, server) == 1


def test_the_image_wants_tls_or_to_be_told_that_it_needs_none(image: Path, bundles: Path, tmp_path: Path) -> None:
    refused = serve(image, bundles)
    try:
        assert refused.wait(60) == 1
        refused.wait_for("others can reach this address: give --tls-cert and --tls-key, or --insecure")
    finally:
        stop(refused)
    pem = issue(trustme.CA(), tmp_path / "tls", "chars.example.org")
    server = serve(image, bundles, CHARSTREAM_TLS_CERT=str(pem.cert), CHARSTREAM_TLS_KEY=str(pem.key))
    try:
        ready(server)
        seen = {"CHARSTREAM_HEALTH_TLS_CA": str(pem.cert), "CHARSTREAM_HEALTH_TLS_NAME": "chars.example.org"}
        assert health(image, server, **seen) == 0
        assert health(image, server) == 1
    finally:
        stop(server)


def serve(image: Path, bundles: Path, **variables: str) -> ServerProcess:
    """Start a server with the stage's variables, and these."""
    (environment,) = (arguments for instruction, arguments in stage("cpu") if instruction == "ENV")
    own = [setting for setting in environment.split() if setting.startswith("CHARSTREAM_HOST=")]
    given = [f"{name}={value}" for name, value in variables.items()]
    python = str(image / "opt" / "charstream" / "bin" / "python")
    return start_server(bundles, "--grace", "5", command=("env", *own, *given, python, "-P", "-m", "server"), cwd=image)


def health(image: Path, server: ServerProcess, **variables: str) -> int:
    """The exit code of the stage's health check."""
    port = server.address.rsplit(":", 1)[1]
    command = [argument.replace("50051", port) for argument in health_check()]
    command[0] = str(image / "opt" / "charstream" / "bin" / "python")
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=image, env=environment, capture_output=True, timeout=60).returncode


def test_the_wheel_runs_its_commands_in_an_empty_environment(image: Path) -> None:
    command = image / "opt" / "charstream" / "bin" / "charstream"
    shown = subprocess.run([command, "--help"], cwd=image, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0
    assert "loadtest" in shown.stdout
    served = subprocess.run([command, "serve", "--help"], cwd=image, capture_output=True, text=True, timeout=60)
    assert served.stdout.startswith("usage: charstream serve")
    models = subprocess.run([command, "pretrained"], cwd=image, capture_output=True, text=True, timeout=60)
    assert models.stdout.startswith("shakespeare: "), models.stderr
    # What needs an extra says which.
    for name, extra in (("train", "train"), ("loadtest", "loadtest")):
        refused = subprocess.run([command, name], cwd=image, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 2
        assert f"charstream[{extra}]" in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_without_an_onnxruntime_it_says_how_to_get_one(image: Path, bundles: Path) -> None:
    """Comes last of those that use the image: it takes onnxruntime away."""
    python = str(image / "opt" / "charstream" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "uninstall", "--yes", "onnxruntime"], check=True, capture_output=True)
    server = start_server(bundles, command=(python, "-P", "-m", "server"), cwd=image)
    try:
        assert server.wait(60) == 1
        server.wait_for(r"onnxruntime is not installed: pip install 'charstream\[cpu\]' or 'charstream\[gpu\]'")
    finally:
        stop(server)


def test_both_targets_differ_only_in_their_base_and_their_onnxruntime() -> None:
    cpu, gpu = stage("cpu"), [line for line in stage("gpu") if not line[1].startswith("apt-get")]
    assert [(i, a.replace("onnxruntime-gpu", "onnxruntime")) for i, a in gpu] == cpu
    settings = dict(cpu)
    assert settings["USER"].split(":")[0] not in ("0", "root")
    assert settings["ENTRYPOINT"] == '["charstream", "serve"]'
    assert "AS gpu" in (ROOT / "Dockerfile").read_text().rsplit("FROM", 1)[1], "the default target is the last one"


def health_check() -> list[str]:
    (line,) = (arguments for instruction, arguments in stage("cpu") if instruction == "HEALTHCHECK")
    return list(json.loads(line.split("CMD ", 1)[1]))
