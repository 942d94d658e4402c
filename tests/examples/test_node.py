"""The client in Node.js that people copy: it prints the text that the server has for the request, whatever breaks."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.client.scripted import dead_address, serving, tell_token
from tests.conftest import ServerProcess, ready, start_server, stop

ROOT = Path(__file__).parents[2]
INSTALL_SECONDS, RUN_SECONDS = 120, 60
NO_REGISTRY = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ENOTCACHED")
PROMPT = "To be, or not to be: "


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, installed, with the proto file where it looks for it."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    root = tmp_path_factory.mktemp("node")
    folder = root / "examples" / "node"
    shutil.copytree(ROOT / "examples" / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    (root / "protos").mkdir()
    shutil.copy(ROOT / "protos" / "charstream.proto", root / "protos")
    _install(folder)
    return folder


def _install(folder: Path) -> None:
    command = ["npm", "ci", "--prefer-offline", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not fetch the example's packages within {INSTALL_SECONDS} s")
    if done.returncode and (cause := NO_REGISTRY.search(done.stderr)):
        pytest.skip(f"no npm registry in reach: {cause.group()}")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def replicas(bundles: Path) -> Iterator[list[ServerProcess]]:
    processes = [start_server(bundles, "--precision", "fp32", "--grace", "0") for _ in range(2)]
    yield [ready(process) for process in processes]
    for process in processes:
        stop(process)


def run(example: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    command = ["node", str(example / "stream.mjs"), PROMPT, *arguments]
    environment = os.environ | variables
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def reference(server: ServerProcess, **request: object) -> str:
    with grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        return "".join(r.text for r in stub.Generate(pb.GenerateRequest(prompt=PROMPT, **request)))  # type: ignore[arg-type]


def test_it_prints_the_text_that_the_python_stub_gets(example: Path, server: ServerProcess) -> None:
    """With a seed that a JavaScript number cannot hold."""
    seed, temperature = 2**64 - 3, 0.75
    flags = ("--seed", str(seed), "--temperature", str(temperature), "--max-chars", "2000")
    text, notes = run(example, "--host", server.address, *flags).communicate(timeout=RUN_SECONDS)
    assert text == reference(server, seed=seed, max_chars=2000, sampling=pb.Sampling(temperature=temperature))
    assert f"2000 characters, seed {seed}" in notes


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "shut down"])
def test_a_text_goes_on_at_the_next_replica(example: Path, replicas: list[ServerProcess], how: signal.Signals) -> None:
    """Without a seed: what the first server chose must reach the second."""
    first, second = replicas
    with run(example, "--host", first.address, "--host", second.address, "--max-chars", "30000") as process:
        assert process.stdout
        assert process.stderr
        begin = process.stdout.read(1)
        first.signal(how)  # the rest would take it a second or more
        # Not by `communicate`, which would lose all that `read` has buffered beyond its one character.
        rest, notes = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0, notes
    seed = int(notes.split()[-1])
    assert begin + rest == reference(second, seed=seed, max_chars=30_000)


def test_it_gives_up_in_one_line(example: Path, server: ServerProcess) -> None:
    process = run(example, "café", "--host", server.address)
    text, notes = process.communicate(timeout=RUN_SECONDS)
    assert (process.returncode, text) == (1, "")
    assert len(notes.splitlines()) == 1
    assert "'é'" in notes


def test_model_stop_and_seed_are_those_of_the_request(example: Path, server: ServerProcess) -> None:
    flags = ("--host", server.address, "--max-chars", "500", "--seed", "7", "--stop", "e", "--stop", "a")
    for variables, more in [({"CHARSTREAM_MODEL": "tiny"}, ()), ({"CHARSTREAM_MODEL": "huge"}, ("--model", "tiny@1"))]:
        text, _ = run(example, *flags, *more, **variables).communicate(timeout=RUN_SECONDS)
        assert text == reference(server, max_chars=500, seed=7, stop=["e", "a"])
    process = run(example, *flags, CHARSTREAM_MODEL="huge")
    assert "huge" in process.communicate(timeout=RUN_SECONDS)[1]
    assert process.returncode == 1


def test_over_tls_the_server_sees_the_token(example: Path, certificate_files: tuple[Path, Path]) -> None:
    key, certificate = certificate_files
    pair = (key.read_bytes(), certificate.read_bytes())
    with serving(tell_token, credentials=grpc.ssl_server_credentials([pair])) as server:
        flags = ("--host", server.address, "--tls-ca", str(certificate))
        assert run(example, *flags).communicate(timeout=RUN_SECONDS)[0] == "none"
        assert run(example, *flags, CHARSTREAM_TOKEN="secret").communicate(timeout=RUN_SECONDS)[0] == "Bearer secret"


def test_what_goes_to_this_machine_passes_no_proxy(example: Path, server: ServerProcess) -> None:
    """A proxy would see the token; and where it is another machine's, 127.0.0.1 is another one for it."""
    flags = ("--host", server.address, "--seed", "7", "--max-chars", "50")
    proxy = dict.fromkeys(["http_proxy", "https_proxy", "grpc_proxy"], f"http://{dead_address()}")
    text, _ = run(example, *flags, **proxy, no_proxy="", CHARSTREAM_TOKEN="secret").communicate(timeout=RUN_SECONDS)
    assert text == reference(server, seed=7, max_chars=50)


def test_a_host_alone_means_the_servers_own_port(example: Path) -> None:
    notes = run(example, "--host", "127.255.255.254").communicate(timeout=RUN_SECONDS)[1]
    assert "127.255.255.254:50051" in notes


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--temprature", "1"], "--temprature"),
        (["--max-chars", "many"], "--max-chars: many is no number"),
        (["--host", "http://127.0.0.1:1"], "host:port is expected; TLS is --tls"),
        (["--host", "far.example:1"], "far.example:1 could read the token: give --tls"),
        (["--tls-ca", "no/such/file"], "no/such/file"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(example: Path, flags: list[str], says: str) -> None:
    process = run(example, *flags, CHARSTREAM_TOKEN="secret")
    text, notes = process.communicate(timeout=RUN_SECONDS)
    assert (process.returncode, text, notes.count("\n")) == (2, "", 1)
    assert notes.startswith("stream: ")
    assert says in notes


def test_help_names_every_flag(example: Path) -> None:
    process = run(example, "--help")
    text, _ = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 0
    source = (example / "stream.mjs").read_text()
    declared = re.search(r"const OPTIONS = \{\n(.*?)\n\}", source, re.DOTALL)
    assert declared
    for name in re.findall(r"^  '?([\w-]+)'?: ", declared[1], re.MULTILINE):
        assert f"--{name} " in text
