"""Lines for people and for programs that nobody can forge, and a stderr that cannot hold up what is served."""

import fcntl
import json
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import grpc
import pytest
from grpc import StatusCode

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from server.observe.call import Call
from server.observe.log_writer import WAITING_BYTES, LineHandler
from server.observe.logs import CallLog, Console, Json
from tests.conftest import ServerProcess, start_server, stop

SECRET = "Nobody else's business"
FORGED = '\n2026-01-01 00:00:00,000 INFO charstream.server: forged" status=OK\r\x1b[2J\u2028\u202e{"level": "INFO"}'

A_FILE_THAT_IS_FULL_FOR_A_WHILE = """
import logging, resource, sys
from server.observe.log_writer import LineHandler

handler = LineHandler(2)
log = logging.getLogger()
log.addHandler(handler)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (25, unlimited[1]))
for number in range(4):
    log.warning("line %d of ten", number)
    handler.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
log.warning("the last line")
"""


def generate(address: str, **fields: Any) -> str:
    with grpc.insecure_channel(address) as channel:
        messages = rpc.TextGenerationStub(channel).Generate(pb.GenerateRequest(**fields), timeout=60)
        return "".join(message.text for message in messages)


def record(message: str, *args: object, error: BaseException | None = None, **fields: object) -> logging.LogRecord:
    about = (type(error), error, None) if error else None
    made = logging.LogRecord("charstream.test", logging.WARNING, __file__, 1, message, args, about)
    made.fields = fields
    return made


def call_lines(log: str) -> list[str]:
    return [line for line in log.splitlines() if " charstream.calls: " in line]


def test_a_call_is_a_line_without_its_text(server: ServerProcess) -> None:
    text = generate(server.address, prompt=SECRET, max_chars=403, seed=1)
    line = server.wait_for(r".* INFO charstream\.calls: call .*generated_chars=403 .*").group()
    for words in ("method=Generate", 'model="tiny 1"', "status=OK", "reason=length", f"forced_chars={len(SECRET)}"):
        assert f" {words} " in line
    assert re.search(r" id=\w{8} .* queue_seconds=[\d.e-]+ first_char_seconds=[\d.e-]+ seconds=[\d.e-]+$", line)
    assert "limit=" not in line
    assert SECRET not in server.log
    assert text[:20] not in server.log


def test_json_has_a_call_as_fields_and_all_lines_to_the_last(bundles: Path) -> None:
    process = start_server(bundles, "--precision", "fp32", "--log-format", "json", "--log-texts")
    try:
        address = process.wait_for(r"listening on ([\d.:]+)")[1]
        text = generate(address, prompt=SECRET, max_chars=40, seed=1)
        with pytest.raises(grpc.RpcError):
            generate(address, model="nowhere\n{}")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        process.wait_for('"ended"')
    finally:
        stop(process)
    lines = [json.loads(line) for line in process.lines]
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert {"level", "logger", "message"} <= line.keys()
    good, bad = [line for line in lines if line["logger"] == "charstream.calls"]
    assert (good["method"], good["status"], good["model"]) == ("Generate", "OK", "tiny 1")
    assert (good["prompt"], good["text"], good["generated_chars"]) == (SECRET, text, 40)
    assert good["seconds"] >= good["first_char_seconds"] >= good["queue_seconds"] >= 0
    assert (bad["status"], bad["first_char_seconds"]) == ("NOT_FOUND", None)


def test_why_a_server_cannot_start_is_json_too(tmp_path: Path) -> None:
    process = start_server(tmp_path, "--log-format", "json")
    try:
        assert process.wait() == 1
        process.wait_for("cannot start: --models .* holds no bundle")
        assert json.loads(process.lines[-1])["level"] == "CRITICAL"
    finally:
        stop(process)


@pytest.fixture
def served_calls(caplog: pytest.LogCaptureFixture) -> Callable[..., logging.LogRecord]:
    caplog.set_level(logging.INFO, "charstream.calls")

    def ended(call: Call, *, texts: bool = False) -> logging.LogRecord:
        CallLog(texts=texts).on_end(call)
        return caplog.records[-1]

    return ended


@pytest.mark.parametrize("texts", [False, True])
def test_a_caller_cannot_forge_a_line(served_calls: Callable[..., logging.LogRecord], texts: bool) -> None:
    call = Call(FORGED, peer=FORGED, identity=FORGED, model=FORGED, status=StatusCode.INTERNAL)
    call.prompt = call.text = FORGED
    made = served_calls(call, texts=texts)
    line = Console().format(made)
    assert line.isprintable()
    unquoted = re.sub(r'"(\\.|[^"\\])*"', "TEXT", line)
    assert unquoted.count("status=") == 1
    assert "status=INTERNAL" in unquoted
    assert "forged" not in unquoted
    found = json.loads(Json().format(made))
    assert Json().format(made).isprintable()
    assert (found["level"], found["identity"], found["model"]) == ("WARNING", FORGED, FORGED)
    assert found.keys() & {"prompt", "text"} == ({"prompt", "text"} if texts else set())
    assert line.count("forged") == (6 if texts else 4)


def test_a_message_or_an_error_cannot_forge_a_line() -> None:
    made = record("not served: %s", FORGED, error=ValueError(FORGED))
    first, *rest = Console().format(made).splitlines()
    assert first.startswith(logging.Formatter().formatTime(made) + " WARNING charstream.test: not served: \\n2026")
    assert rest
    for line in rest:
        assert line.startswith("    ")
        assert line.isprintable()
    found = json.loads(Json().format(made))
    assert found["message"] == f"not served: {FORGED}"
    assert FORGED in found["error"]


def test_other_scripts_stay_readable() -> None:
    assert Console().format(record("größe 大", name="naïve")).endswith("größe 大 name=naïve")
    assert json.loads(Json().format(record("größe", broken="\udc80")))["broken"] == "\udc80"


@contextmanager
def logger_of(fd: int) -> Iterator[tuple[logging.Logger, LineHandler]]:
    handler, logger = LineHandler(fd), logging.Logger("charstream.test")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    try:
        yield logger, handler
    finally:
        handler.flush()
        handler.close()
        os.close(fd)


def test_lines_that_a_full_disk_did_not_take_are_counted_and_told_later(tmp_path: Path) -> None:
    disk = os.open("/dev/full", os.O_WRONLY)
    with logger_of(disk) as (logger, handler):
        for number in range(3):
            logger.info("line %d", number)
        handler.flush()
        assert handler.lost == 3
        with (tmp_path / "log").open("wb") as file:
            os.dup2(file.fileno(), disk)
        logger.info("works again")
        logger.info("no more to tell")
        handler.flush()
        assert handler.lost == 3
    told, *lines = (tmp_path / "log").read_text().splitlines()
    assert told == "3 log lines were lost"
    assert lines == ["works again", "no more to tell"]


def test_a_line_that_was_cut_by_a_full_disk_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        subprocess.run([sys.executable, "-c", A_FILE_THAT_IS_FULL_FOR_A_WHILE], stderr=file, check=True, timeout=60)
    assert (tmp_path / "log").read_text().splitlines() == [
        "line 0 of ten",
        "line 1 of t",
        "3 log lines were lost",
        "the last line",
    ]


def test_a_closed_pipe_a_wrong_format_and_a_closed_handler_raise_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with logger_of(writing) as (logger, handler):
        logger.info("nobody reads this")
        logger.info("%d", "no number")
        handler.flush()
        assert handler.lost == 2
        handler.close()
        logger.info("after the end")
        assert handler.lost == 3


def test_who_logs_does_not_wait_for_who_reads() -> None:
    reading, writing = os.pipe()
    size = WAITING_BYTES // 4
    with os.fdopen(reading) as pipe, logger_of(writing) as (logger, handler):
        logger.info("0%s", "x" * (size - 2))
        select.select([pipe], [], [])  # it is being written, and cannot be
        for number in range(1, 6):
            logger.info("%d%s", number, "x" * (size - 2))
        assert handler.lost == 2
        assert pipe.readline() == f"0{'x' * (size - 2)}\n"
        assert pipe.readline() == "2 log lines were lost\n"
        for number in range(1, 4):
            assert pipe.readline() == f"{number}{'x' * (size - 2)}\n"
        logger.info("all is well")
        assert pipe.readline() == "all is well\n"


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading) as pipe, logger_of(writing) as (logger, handler):
        for _ in range(20):
            logger.info("x" * 20_000)
        for _ in range(20):
            assert len(pipe.readline()) == 20_001
        assert handler.lost == 0


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def serving(bundles: Path, stderr: int | IO[bytes]) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A server whose stderr cannot tell where it listens."""
    address = f"127.0.0.1:{free_port()}"
    flags = ("--models", str(bundles), "--precision", "fp32", "--port", address.rsplit(":")[1])
    process = subprocess.Popen([sys.executable, "-m", "server", *flags], stderr=stderr)
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(60)
        yield address, process
    finally:
        process.kill()
        process.wait()


def test_a_server_serves_and_ends_well_with_a_full_disk_under_its_log(bundles: Path, server: ServerProcess) -> None:
    request = {"prompt": "abc", "max_chars": 300, "seed": 5}
    with open("/dev/full", "wb", buffering=0) as full, serving(bundles, full) as (address, process):
        for _ in range(3):
            assert generate(address, **request) == generate(server.address, **request)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_server_serves_and_ends_well_if_nobody_reads_its_log(bundles: Path) -> None:
    reading, writing = os.pipe()
    capacity = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with (
        closing(os.fdopen(reading, "rb")),
        os.fdopen(writing, "wb") as pipe,
        serving(bundles, pipe) as (address, process),
    ):
        with grpc.insecure_channel(address) as channel:
            for _ in range(capacity // 50):  # a line has more
                rpc.ModelsStub(channel).ListModels(pb.ListModelsRequest(), timeout=30)
        assert len(generate(address, max_chars=300)) == 300
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
