"""`charstream stream` and `charstream models` as a shell sees them: output, messages, exit codes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from client import Client
from tests.client.scripted import ScriptedServer, endless, serving
from tests.conftest import ServerProcess

SECONDS = 30
# A shell that runs the tests in the background has them ignore SIGINT, and so would the commands.
WITH_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


def command(*argv: str) -> list[str]:
    return [sys.executable, "-c", f"{WITH_SIGINT}; from charstream.__main__ import main; exit(main())", *argv]


def run(*argv: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*argv), capture_output=True, text=True, timeout=SECONDS)


@pytest.fixture
def forever() -> Iterator[ScriptedServer]:
    with serving(endless) as server:
        yield server


@pytest.fixture(scope="module")
def text(server: ServerProcess) -> str:
    with Client(server.address) as client:
        return "".join(client.stream("ROMEO:", max_chars=120, seed=7))


def test_the_text_is_on_stdout_and_what_is_said_of_it_on_stderr(server: ServerProcess, text: str) -> None:
    done = run("stream", "ROMEO:", "--host", server.address, "--max-chars", "120", "--seed", "7")
    assert (done.returncode, done.stdout) == (0, "ROMEO:" + text)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("length: 120 characters, ")
    assert "seed 7" in done.stderr


def test_without_echo_only_the_continuation_is_printed(server: ServerProcess, text: str) -> None:
    done = run("stream", "ROMEO:", "--host", server.address, "--max-chars", "120", "--seed", "7", "--no-echo")
    assert done.stdout == text


def test_json_is_one_object_a_line(server: ServerProcess, text: str) -> None:
    done = run("stream", "ROMEO:", "--host", server.address, "--max-chars", "120", "--seed", "7", "--json")
    *chunks, last = map(json.loads, done.stdout.splitlines())
    assert "".join(chunk["text"] for chunk in chunks) == text
    assert last["finish"]["generated_chars"] == 120
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stop_string_may_be_written_with_escapes(server: ServerProcess) -> None:
    done = run("stream", "ROMEO:", "--host", server.address, "--max-chars", "5000", "--seed", "7", "--stop", r"\n")
    assert "\n" not in done.stdout
    assert done.stderr.startswith(r"stop '\n': ")


def test_greedy_is_temperature_zero(server: ServerProcess) -> None:
    flags = ("stream", "ROMEO:", "--host", server.address, "--max-chars", "50")
    assert run(*flags, "--greedy").stdout == run(*flags, "--temperature", "0").stdout
    assert run(*flags, "--greedy", "--temperature", "1").returncode == 2


def test_the_server_may_be_named_by_a_variable(server: ServerProcess) -> None:
    environment = {**os.environ, "CHARSTREAM_ADDRESS": server.address}
    done = subprocess.run(command("models"), capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--temperature", "-1"], "temperature"),
        (["--seed", "-1"], "seed: -1"),
        (["--max-chars", "0"], "max_chars: 0"),
        (["--max-chars", "many"], "--max-chars"),
        (["--model", "huge"], "huge"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_what_the_caller_can_correct_is_one_line_and_exit_code_2(
    server: ServerProcess, flags: list[str], says: str
) -> None:
    done = run("stream", "ROMEO:", "--host", server.address, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("charstream stream: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.mark.parametrize("name", ["stream", "models", "loadtest"])
def test_no_server_is_one_line_and_exit_code_1(name: str) -> None:
    with serving(endless) as server:
        address = server.address
    done = run(name, "--host", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"charstream {name}: ")
    assert done.stderr.count("\n") == 1


def test_a_timeout_is_exit_code_1_and_keeps_what_was_printed(forever: ScriptedServer) -> None:
    done = run("stream", "x", "--host", forever.address, "--timeout", "0.7")
    assert done.returncode == 1
    assert done.stdout.startswith("xabab")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_ends_it_quietly(forever: ScriptedServer) -> None:
    with subprocess.Popen(
        command("stream", "x", "--host", forever.address), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(10) == b"xababababa"
        process.stdout.close()
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == b""
    assert forever.ended.wait(SECONDS)


def test_ctrl_c_ends_it_quietly_with_130(forever: ScriptedServer) -> None:
    with subprocess.Popen(
        command("stream", "x", "--host", forever.address), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, said) == (130, b"")
    assert forever.ended.wait(SECONDS)


def test_models_are_a_table(server: ServerProcess) -> None:
    done = run("models", "--host", server.address)
    header, row = done.stdout.splitlines()
    assert header.split()[:2] == ["name", "cell"]
    assert row.split()[:4] == ["tiny", "lstm", "2x64", "96"]
    assert "4.5000 carried" in row


def test_models_as_json_say_everything(server: ServerProcess) -> None:
    (model,) = json.loads(run("models", "--host", server.address, "--json").stdout)
    assert model["name"] == "tiny"
    assert len(model["vocabulary"]) == 96
    assert model["training"]["validation_nats"] == {"carried": 4.5}


def test_a_prompt_may_begin_with_a_dash_after_two_and_the_help_says_so(server: ServerProcess) -> None:
    done = run("stream", "--host", server.address, "--max-chars", "1", "--", "-a")
    assert done.stdout.startswith("-a")
    assert 'after the flags and "--"' in " ".join(run("stream", "--help").stdout.split())
