"""`charstream stream` and `charstream models` as a shell sees them: output, messages, exit codes."""

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health, health_pb2_grpc

from client import Client
from client.commands import health as health_command
from protos import charstream_pb2 as pb
from server.engine.messages import Repeat
from tests.client.replica import Fault, Replica, expected_text
from tests.client.scripted import ScriptedServer, abort, dead_address, endless, finish, serving, tell_token
from tests.conftest import Charstream, Done, ServerProcess
from tests.server.engine.test_repeats import end_by_definition

SECONDS = 30
# A shell that runs the tests in the background has them ignore SIGINT, and so would the commands.
WITH_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


def command(*argv: str) -> list[str]:
    return [sys.executable, "-c", f"{WITH_SIGINT}; from charstream.__main__ import main; exit(main())", *argv]


@pytest.fixture
def forever() -> Iterator[ScriptedServer]:
    with serving(endless) as server:
        yield server


@pytest.fixture(scope="module")
def text(server: ServerProcess) -> str:
    with Client(server.address) as client:
        return "".join(client.stream("ROMEO:", max_chars=120, seed=7))


FLAGS = ("--max-chars", "120", "--seed", "7")


def test_the_text_is_on_stdout_and_what_is_said_of_it_on_stderr(
    charstream: Charstream, server: ServerProcess, text: str
) -> None:
    done = charstream("stream", "ROMEO:", "--host", server.address, *FLAGS)
    assert (done.returncode, done.stdout) == (0, "ROMEO:" + text)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("length: 120 characters, ")
    assert "seed 7" in done.stderr


def test_a_text_that_repeats_itself_says_so(charstream: Charstream, server: ServerProcess, text: str) -> None:
    flags = ("stream", "ROMEO:", "--host", server.address, *FLAGS, "--no-echo")
    end, period = end_by_definition(text, Repeat(3, 2))
    done = charstream(*flags, "--stop-on-repeat", "3,2")
    assert (done.returncode, done.stdout) == (0, text[:end])
    assert done.stderr.startswith(f"repeat of {period} character{'' if period == 1 else 's'}: {end} characters, ")
    with Client(server.address) as client:
        whole = client.stream("ROMEO:", max_chars=500, seed=7, temperature=0).read()
    end, period = end_by_definition(whole, Repeat(90, 2, min_period=20))
    done = charstream(*flags, "--max-chars", "500", "--greedy", "--stop-on-repeat", "20-90,2", "--json")
    assert "".join(json.loads(line).get("text", "") for line in done.stdout.splitlines()) == whole[:end]
    assert json.loads(done.stdout.splitlines()[-1])["finish"]["repeat_period"] == period >= 20


@pytest.mark.parametrize(("given", "words"), [("200", "as in"), ("20-,4", "as in"), ("200,1", "is 1, allowed are 2")])
def test_what_is_no_repetition_is_one_line(
    charstream: Charstream, server: ServerProcess, given: str, words: str
) -> None:
    done = charstream("stream", "a", "--host", server.address, "--stop-on-repeat", given)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr


def test_without_echo_only_the_continuation_is_printed(
    charstream: Charstream, server: ServerProcess, text: str
) -> None:
    assert charstream("stream", "ROMEO:", "--host", server.address, *FLAGS, "--no-echo").stdout == text


@pytest.mark.parametrize("prompt", [[], ["-"]])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_prompt_may_be_piped_and_the_line_end_at_its_end_is_not_part_of_it(
    charstream: Charstream, server: ServerProcess, text: str, prompt: list[str], end: str
) -> None:
    done = charstream("stream", *prompt, "--host", server.address, *FLAGS, stdin="ROMEO:" + end)
    assert done.stdout == "ROMEO:" + text


def test_only_one_line_end_of_a_piped_prompt_is_taken(charstream: Charstream, server: ServerProcess) -> None:
    done = charstream("stream", "--host", server.address, "--max-chars", "1", "--banned", r"\n", stdin="a\n\n")
    assert done.stdout.startswith("a\n")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("prompt", ["ROMEO:", ""])
def test_what_is_piped_beside_a_prompt_stays_where_it_is(
    charstream: Charstream, server: ServerProcess, prompt: str
) -> None:
    done = charstream("stream", prompt, "--host", server.address, "--max-chars", "1", stdin="JULIET:")
    assert len(done.stdout) == len(prompt) + 1


def test_a_terminal_without_a_prompt_is_not_waited_for(
    charstream: Charstream, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboard, terminal = os.openpty()
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        done = charstream("stream", "--host", server.address, "--max-chars", "1")
    os.close(keyboard)
    assert (done.returncode, len(done.stdout)) == (0, 1)


def test_a_piped_prompt_that_is_no_text_is_one_line(charstream: Charstream, server: ServerProcess) -> None:
    done = charstream("stream", "--host", server.address, stdin=b"caf\xe9")
    assert (done.returncode, done.stderr) == (2, "charstream stream: -: is not UTF-8 at byte 3\n")


def test_json_is_one_object_a_line(charstream: Charstream, server: ServerProcess, text: str) -> None:
    done = charstream("stream", "ROMEO:", "--host", server.address, *FLAGS, "--json")
    *chunks, last = map(json.loads, done.stdout.splitlines())
    assert "".join(chunk["text"] for chunk in chunks) == text
    assert set(chunks[0]) == {"text"}
    assert last["finish"]["generated_chars"] == 120
    assert (done.returncode, done.stderr) == (0, "")


def test_json_has_the_log_probabilities_of_its_own_characters(charstream: Charstream, server: ServerProcess) -> None:
    flags = ("--host", server.address, *FLAGS, "--json", "--logprobs", "2", "--max-chunk-chars", "7")
    *chunks, _ = map(json.loads, charstream("stream", "ROMEO:", *flags).stdout.splitlines())
    with Client(server.address) as client, client.stream("ROMEO:", max_chars=120, seed=7, logprobs=2) as stream:
        stream.read()
    assert [len(chunk["logprobs"]) for chunk in chunks] == [len(chunk["text"]) for chunk in chunks]
    assert [value for chunk in chunks for value in chunk["logprobs"]] == stream.logprobs
    assert [place for chunk in chunks for place in chunk["alternatives"]] == [
        [list(pair) for pair in place] for place in stream.alternatives
    ]


def test_several_continuations_come_one_below_the_other(
    charstream: Charstream, server: ServerProcess, text: str
) -> None:
    with Client(server.address) as client:
        texts = client.continuations("ROMEO:", n=3, max_chars=120, seed=7).read()
    done = charstream("stream", "ROMEO:", "--host", server.address, *FLAGS, "--n", "3")
    assert done.stdout == "\n\n".join(f"== continuation {i}\nROMEO:{texts[i]}" for i in range(3)) + "\n"
    assert [line[:20] for line in done.stderr.splitlines()] == [f"{i}: length: 120 chara" for i in range(3)]
    assert texts[0] == text
    done = charstream("stream", "ROMEO:", "--host", server.address, *FLAGS, "--continuation", "2", "--no-echo")
    assert done.stdout == texts[2], "the heading says how to have it alone"


def test_json_says_whose_each_chunk_is(charstream: Charstream, server: ServerProcess) -> None:
    with Client(server.address) as client:
        texts = client.continuations("ROMEO:", n=2, max_chars=120, seed=7).read()
    done = charstream("stream", "ROMEO:", "--host", server.address, *FLAGS, "--n", "2", "--json", "--logprobs", "0")
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    for index in range(2):
        *chunks, last = [each for each in objects if each["index"] == index]
        assert "".join(chunk["text"] for chunk in chunks) == texts[index]
        assert all(len(chunk["logprobs"]) == len(chunk["text"]) for chunk in chunks)
        assert last["finish"]["generated_chars"] == 120


@pytest.mark.parametrize("more", [[], ["--n", "2"]])
def test_it_says_how_many_characters_of_the_prompt_were_changed(charstream: Charstream, more: list[str]) -> None:
    with serving(Replica().generate) as server:
        flags = ("stream", "aüüb", "--host", server.address, "--seed", "1", *more)
        for unknown in (["--unknown", "skip"], []):
            done = charstream(*flags, *unknown)
            assert done.returncode == 0
            assert all(
                line.endswith(", 2 characters of the prompt unknown") == bool(unknown)
                for line in done.stderr.splitlines()
            )
            last = json.loads(charstream(*flags, *unknown, "--json").stdout.splitlines()[-1])
            assert last.get("unknown_chars") == (2 if unknown else None)


@pytest.mark.parametrize("more", [[], ["--n", "2"]])
def test_a_broken_text_says_how_much_came_and_keeps_it(charstream: Charstream, more: list[str]) -> None:
    with serving(Replica([Fault("unavailable", 10)]).generate) as server:
        done = charstream("stream", "x", "--host", server.address, "--seed", "1", "--no-resume", "--no-echo", *more)
    assert done.returncode == 1
    assert done.stderr.startswith("charstream stream: scripted: unavailable (after ")
    came = expected_text(40, 1, "x")[: 10 if not more else 4]
    assert came in done.stdout


@pytest.mark.parametrize(("faults", "told"), [(0, ""), (1, ", went on elsewhere 1 time"), (2, "elsewhere 2 times")])
def test_a_text_says_how_often_it_went_on_elsewhere(charstream: Charstream, faults: int, told: str) -> None:
    with serving(Replica([Fault("unavailable", 10)] * faults).generate) as server:
        done = charstream("stream", "x", "--host", server.address, "--seed", "1", "--no-echo")
    assert done.stdout == expected_text(40, 1, "x")
    assert done.stderr.strip().endswith(told or "seed 1")


def test_a_text_goes_on_from_a_token_as_if_it_had_never_stopped(
    charstream: Charstream, server: ServerProcess, text: str, tmp_path: Path
) -> None:
    token, flags = tmp_path / "token", ("--host", server.address, "--max-chars", "60")
    first = charstream("stream", "ROMEO:", *flags, "--seed", "7", "--token-out", str(token))
    second = charstream("stream", *flags, "--token-in", str(token), "--token-out", str(token))
    assert first.stdout + second.stdout == "ROMEO:" + text
    assert stat.S_IMODE(token.stat().st_mode) == 0o600, "who has it can read the end of the text in it"
    assert list(tmp_path.iterdir()) == [token]


def test_a_text_that_fails_leaves_the_token_as_it_was(charstream: Charstream, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_bytes(b"before")
    assert charstream("stream", "x", "--host", dead_address(), "--token-out", str(token)).returncode == 1
    assert token.read_bytes() == b"before"


def test_a_token_may_go_to_a_device(charstream: Charstream, server: ServerProcess) -> None:
    done = charstream("stream", "x", "--host", server.address, "--max-chars", "1", "--token-out", "/dev/null")
    assert done.returncode == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_characters_can_be_allowed_banned_and_preferred(charstream: Charstream, server: ServerProcess) -> None:
    def generated(*flags: str) -> str:
        done = charstream("stream", "a", "--host", server.address, "--max-chars", "40", "--seed", "7", *flags)
        assert done.returncode == 0, done.stderr
        return done.stdout[1:]

    assert set(generated("--allowed", r"x\n")) == {"x", "\n"}
    assert set(generated("--allowed", "xy", "--banned", "y")) == {"x"}
    assert set(generated("--greedy", "--bias", "==100")) == {"="}
    assert set(generated("--greedy", "--bias", r"\n=100")) == {"\n"}
    assert set(generated("--greedy", "--bias=-=100", "--bias", "x=-1e2")) == {"-"}


def test_a_prompt_may_be_written_with_escapes_and_what_is_piped_is_taken_as_it_is(
    charstream: Charstream, server: ServerProcess
) -> None:
    flags = ("--host", server.address, "--max-chars", "20", "--seed", "7")
    with Client(server.address) as client:
        after_line = client.stream("ROMEO:\n", max_chars=20, seed=7).read()
        after_backslash = client.stream("ROMEO:\\n", max_chars=20, seed=7).read()
    assert charstream("stream", r"ROMEO:\n", *flags).stdout == "ROMEO:\n" + after_line
    assert charstream("stream", r"ROMEO:\\n", *flags).stdout == "ROMEO:\\n" + after_backslash
    assert charstream("stream", *flags, stdin=r"ROMEO:\n").stdout == "ROMEO:\\n" + after_backslash


def test_a_text_that_ends_at_once_says_why(charstream: Charstream, server: ServerProcess) -> None:
    flags = ("stream", "a", "--host", server.address, "--greedy", "--bias", "x=100", "--stop", "x")
    done = charstream(*flags)
    assert (done.returncode, done.stdout) == (0, "a")
    assert "0 characters" in done.stderr
    assert "--min-chars N" in done.stderr
    assert "--min-chars" not in charstream(*flags, "--min-chars", "3").stderr


def test_on_one_terminal_the_summary_has_a_line_of_its_own(server: ServerProcess, text: str) -> None:
    """As in a file or a pipe that both go to; where they go apart, stdout has the text alone (the first test)."""
    terminal, ours = os.openpty()
    process = subprocess.Popen(command("stream", "ROMEO:", "--host", server.address, *FLAGS), stdout=ours, stderr=ours)
    os.close(ours)
    shown = b""
    with suppress(OSError):  # the terminal's other end is closed
        while data := os.read(terminal, 65_536):
            shown += data
    os.close(terminal)
    assert process.wait(SECONDS) == 0
    piped = subprocess.run(
        command("stream", "ROMEO:", "--host", server.address, *FLAGS),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
    ).stdout
    for both in (shown.decode().replace("\r\n", "\n"), piped.decode()):
        assert both.startswith("ROMEO:" + text.rstrip("\n") + "\nlength: 120 characters")


def test_a_terminal_that_lacks_characters_gets_them_escaped_and_json_in_ascii() -> None:
    def emoji(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        yield from [pb.GenerateResponse(text="a\U0001f469é"), finish(3)]

    with serving(emoji) as server:
        for encoding, plain, as_json in [
            ("ascii", "a\\U0001f469\\xe9", r'{"text": "a\ud83d\udc69\u00e9"}'),
            ("latin-1", "a\\U0001f469é", r'{"text": "a\ud83d\udc69\u00e9"}'),
            ("utf-8", "a\U0001f469é", '{"text": "a\U0001f469é"}'),
        ]:
            for flags, expected in [((), plain), (("--json",), as_json)]:
                done = subprocess.run(
                    command("stream", "", "--host", server.address, *flags),
                    env=os.environ | {"PYTHONIOENCODING": encoding},
                    capture_output=True,
                    timeout=SECONDS,
                )
                assert (done.returncode, done.stdout.decode(encoding).partition("\n")[0]) == (0, expected)


def test_a_closed_stdout_ends_nothing(server: ServerProcess) -> None:
    quoted = shlex.join(command("stream", "ROMEO:", "--host", server.address, *FLAGS))
    done = subprocess.run(["sh", "-c", f"{quoted} >&-"], capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith("length: 120 characters")


def test_a_stop_string_may_be_written_with_escapes(charstream: Charstream, server: ServerProcess) -> None:
    flags = ("stream", "ROMEO:", "--host", server.address, "--max-chars", "5000", "--seed", "7", "--stop", r"\n")
    before = charstream(*flags)
    assert "\n" not in before.stdout
    assert before.stderr.startswith(r"stop '\n': ")
    assert charstream(*flags, "--include-stop").stdout == before.stdout + "\n"
    assert charstream(*flags, "--min-chars", "100").stdout.startswith(before.stdout + "\n")


def test_a_time_limit_ends_a_text_well(charstream: Charstream, server: ServerProcess) -> None:
    done = charstream("stream", "--host", server.address, "--max-chars", "100000", "--time-limit", "0.2")
    assert done.returncode == 0
    assert done.stderr.startswith("deadline: ")


def test_greedy_is_temperature_zero(charstream: Charstream, server: ServerProcess) -> None:
    flags = ("stream", "ROMEO:", "--host", server.address, "--max-chars", "50")
    assert charstream(*flags, "--greedy").stdout == charstream(*flags, "--temperature", "0").stdout
    assert charstream(*flags, "--greedy", "--temperature", "1").returncode == 2


def test_the_servers_may_be_named_by_a_variable(
    charstream: Charstream, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARSTREAM_ADDRESS", f"{dead_address()}, {server.address}")
    for _ in range(4):  # whichever is asked first
        assert charstream("models").returncode == 0


def test_a_replica_that_is_gone_is_made_up_for_by_another(
    charstream: Charstream, server: ServerProcess, text: str
) -> None:
    hosts = ("--host", dead_address(), "--host", server.address)
    for _ in range(4):
        assert charstream("stream", "ROMEO:", *hosts, *FLAGS).stdout == "ROMEO:" + text


def test_a_token_comes_from_a_file_or_a_variable(
    charstream: Charstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("of-the-file\n")
    with serving(tell_token) as server:
        flags = ("stream", "", "--host", server.address)
        assert charstream(*flags).stdout == "none"
        monkeypatch.setenv("CHARSTREAM_TOKEN", "of-the-variable")
        assert charstream(*flags).stdout == "Bearer of-the-variable"
        assert charstream(*flags, "--token-file", str(tmp_path / "secret")).stdout == "Bearer of-the-file"
    far = charstream("stream", "", "--host", "10.255.255.1:1")
    assert (far.returncode, far.stderr.count("\n")) == (2, 1)
    assert "could read it" in far.stderr


def test_a_server_with_a_certificate(charstream: Charstream, certificate_files: tuple[Path, Path]) -> None:
    """And whoever asks it otherwise is told which flag is missing."""
    key, certificate = certificate_files
    pair = [(key.read_bytes(), certificate.read_bytes())]
    with serving(tell_token, credentials=grpc.ssl_server_credentials(pair)) as server:
        flags, ca = ("stream", "", "--host", server.address), ("--tls-ca", str(certificate))
        assert charstream(*flags, *ca).stdout == "none"
        assert_hint(charstream(*flags, "--tls"), "from nobody known here: --tls-ca FILE")
        assert_hint(charstream(*flags), "it speaks TLS: give --tls-ca FILE")
        named = ("stream", "", "--host", server.address.replace("127.0.0.1", "localhost"), *ca)
        assert_hint(charstream(*named), "another name than --host: --tls-name NAME")
        assert charstream(*named, "--tls-name", "127.0.0.1").stdout == "none"
        no_certificate = charstream(*flags, "--tls-ca", str(key))
    assert (no_certificate.returncode, no_certificate.stderr.count("\n")) == (2, 1)
    assert "no certificate" in no_certificate.stderr
    with serving(tell_token, credentials=grpc.ssl_server_credentials(pair, pair[0][1], True)) as server:
        assert_hint(charstream("stream", "", "--host", server.address, *ca), "--tls-client-cert and --tls-client-key")
    with serving(tell_token) as server:
        assert_hint(charstream("stream", "", "--host", server.address, *ca), "speaks no TLS: leave out --tls")


def assert_hint(done: Done, hint: str) -> None:
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert hint in done.stderr


def test_who_has_no_token_or_a_wrong_one_is_told_where_it_comes_from(
    charstream: Charstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Replica([Fault("unauthenticated")] * 2).generate) as server:
        flags = ("stream", "", "--host", server.address)
        assert_hint(charstream(*flags), "--token-file FILE or the variable CHARSTREAM_TOKEN")
        monkeypatch.setenv("CHARSTREAM_TOKEN", "wrong")
        assert_hint(charstream(*flags), "the token that was sent is that of CHARSTREAM_TOKEN")


def test_a_variable_chooses_the_model_and_who_chose_none_is_told_how(
    charstream: Charstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    models = []

    def several(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        models.append(request.model)
        if not request.model and not request.resume_token:
            violation = error_details_pb2.BadRequest.FieldViolation(field="model", description="is empty")
            detail = error_details_pb2.BadRequest(field_violations=[violation])
            abort(context, grpc.StatusCode.INVALID_ARGUMENT, "model: is empty, served are a, b", detail)
        yield from tell_token(request, context)

    (tmp_path / "token").write_bytes(b"{}")
    with serving(several) as server:
        flags = ("stream", "", "--host", server.address)
        refused = charstream(*flags)
        monkeypatch.setenv("CHARSTREAM_MODEL", "a")
        assert charstream(*flags).returncode == 0
        assert charstream(*flags, "--model", "b").returncode == 0
        assert charstream(*flags, "--token-in", tmp_path / "token").returncode == 0
        assert charstream(*flags, "--token-in", tmp_path / "token", "--model", "b").returncode == 0
    assert models == ["", "a", "b", "", "b"], "a token has a model of its own"
    assert refused.returncode == 2
    assert refused.stderr.endswith("choose one with --model NAME or the variable CHARSTREAM_MODEL\n")


def test_health_is_asked_of_the_first_address_over_tls(
    certificate_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key, certificate = certificate_files
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    monkeypatch.setenv("CHARSTREAM_ADDRESS", f"{address},{dead_address()}")
    try:
        assert health_command.main(["--tls-ca", str(certificate)]) == 0
    finally:
        server.stop(None).wait(10)
    assert capsys.readouterr().out == f"{address}: SERVING\n"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--temperature", "-1"], "temperature"),
        (["--seed", "-1"], "seed: -1"),
        (["--max-chars", "0"], "max_chars: 0"),
        (["--max-chars", "many"], "--max-chars"),
        (["--model", "huge"], "huge"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--bias", "e"], "--bias"),
        (["--bias", "el=1"], "--bias"),
        (["--bias", "e=much"], "--bias"),
        (["--bias", "e=nan"], "--bias"),
        (["--logprobs", "1"], "--json"),
        (["--n", "0"], "--n"),
        (["--n", "2", "--continuation", "1"], "continuation"),
        (["--n", "2", "--token-out", "token"], "--token-out"),
        (["--token-out", "no/such/folder"], "no/such/folder"),
        (["--token-in", "no/such/file"], "no/such/file: No such file"),
        (["--token-in", "/dev/null"], "--token-in: /dev/null: is empty"),
        (["--interactive", "--json"], "--interactive"),
        (["--tls-ca", "no/such/file"], "--tls-ca: no/such/file: No such file"),
        (["--token-file", "no/such/file"], "--token-file: no/such/file: No such file"),
        (["--token-file", "/dev/null"], "token"),
        (["--host", ""], "--host"),
    ],
)
def test_what_the_caller_can_correct_is_one_line_and_exit_code_2(
    charstream: Charstream, server: ServerProcess, flags: list[str], says: str
) -> None:
    done = charstream("stream", "ROMEO:", "--host", server.address, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("charstream stream: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.mark.parametrize("name", ["stream", "models", "loadtest"])
def test_no_server_is_one_line_and_exit_code_1(charstream: Charstream, name: str) -> None:
    host = dead_address()
    done = charstream(name, "--host", host)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"charstream {name}: cannot connect to {host}: Connection refused: nobody listens")
    assert done.stderr.count("\n") == 1


def test_a_name_that_nobody_has_is_one_line(charstream: Charstream) -> None:
    done = charstream("models", "--host", "nobody.invalid:7")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("charstream models: cannot find nobody.invalid:7: ")
    assert done.stderr.count("\n") == 1


def test_a_timeout_is_exit_code_1_and_keeps_what_was_printed(charstream: Charstream, forever: ScriptedServer) -> None:
    done = charstream("stream", "x", "--host", forever.address, "--timeout", "0.7")
    assert done.returncode == 1
    assert done.stdout.startswith("xabab")
    assert done.stderr.count("\n") == 1
    assert f"after {len(done.stdout) - 1} characters" in done.stderr


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


def test_models_are_a_table(charstream: Charstream, server: ServerProcess) -> None:
    done = charstream("models", "--host", server.address)
    header, row = done.stdout.splitlines()
    assert header.split()[:4] == ["name", "version", "state", "model"]
    assert row.split()[:9] == ["tiny", "1", "(default)", "loaded", "lstm", "2x64", "96", "fp32", "CPU"]
    for words in (" of 1024 ", " MB ", "none, 0 steps, 4.5000 nats carried"):
        assert words in row


def test_models_as_json_say_everything(charstream: Charstream, server: ServerProcess) -> None:
    (model,) = json.loads(charstream("models", "--host", server.address, "--json").stdout)
    assert model["name"] == "tiny"
    assert len(model["vocabulary"]) == 96
    assert model["training"]["validation_nats"] == {"carried": 4.5}
    assert (model["version"], model["is_default"], model["state"]) == ("1", True, "loaded")
    assert model["prompts"] == ["The first line", "Another"]
    assert model["max_rows"] == 1024
    assert model["memory"] > 1e6


def test_a_prompt_may_begin_with_a_dash_after_two_and_the_help_says_so(
    charstream: Charstream, server: ServerProcess
) -> None:
    done = charstream("stream", "--host", server.address, "--max-chars", "1", "--", "-a")
    assert done.stdout.startswith("-a")
    assert 'after the flags and "--"' in " ".join(charstream("stream", "--help").stdout.split())
