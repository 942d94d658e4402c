"""Whole runs against a server, by plain locust and by the command: verdict, table, files."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import grpc
import pytest

import loadtest
from loadtest.measures.document import read_document
from protos import charstream_pb2 as pb
from tests.client.scripted import abort, endless, finish, serving, text
from tests.conftest import Charstream, ServerProcess

pytestmark = pytest.mark.slow

SECONDS = 60
LOCUSTFILE = Path(loadtest.__file__).with_name("locustfile.py")
# Without pauses a load takes all cores for as long as it runs, of which nothing here depends.
PAUSES = ("--wait", "0.05")


def locust(address: str, *flags: str, seconds: int = 2) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "-u", "4", "-r", "4"]
    return _run([*command, *PAUSES, "-t", f"{seconds}s", "--host", address, *flags])


def command(*flags: str) -> "subprocess.CompletedProcess[str]":
    return _run([sys.executable, "-m", "loadtest", "--null-seconds", "0", *PAUSES, *flags])


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)


def wait_until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while True:
        with suppress(OSError):
            if is_true():
                return
        assert time.monotonic() < end
        time.sleep(0.1)


def rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open() as lines:
        return {row["Name"]: row for row in csv.DictReader(lines)}


def test_plain_locust_measures_streams_and_names_each_threshold_that_is_missed(
    server: ServerProcess, tmp_path: Path
) -> None:
    missed = ("--max-first-char-p99", "0.001", "--min-chars-per-second", "1e9")
    done = locust(server.address, "--max-chars", "100", "--warmup", "0", "--csv", str(tmp_path / "stats"), *missed)
    assert done.returncode == 1
    assert "loadtest: --max-first-char-p99: " in done.stderr
    assert "loadtest: --min-chars-per-second: " in done.stderr
    assert "--max-gap-p99" not in done.stderr
    stats = rows(tmp_path / "stats_stats.csv")
    finished = int(stats["whole call"]["Request Count"])
    assert f"{finished:,} finished, 0 failed" in done.stdout
    assert float(stats["whole call"]["Average Content Size"]) == 100
    # Locust counts a text once, and its percentiles are of one measure.
    assert set(stats) == {"whole call", "Aggregated"}
    assert stats["Aggregated"]["Request Count"] == stats["whole call"]["Request Count"]
    assert float(stats["Aggregated"]["99%"]) <= float(stats["Aggregated"]["Max Response Time"])
    measures = re.findall(r"^(\S.+?), (?:ms|chars/s) +([\d.,]+) +([\d.,]+) +([\d.,]+)$", done.stdout, re.M)
    numbers = [[float(value.replace(",", "")) for value in row] for _, *row in measures]
    assert {"time to first character", "gap between messages", "whole call"} <= {row[0] for row in measures}
    assert all(p50 <= p99 <= most for p50, p99, most in numbers)


def test_two_workers_of_plain_locust_count_as_one_and_keep_thresholds(server: ServerProcess) -> None:
    kept = ("--max-first-char-p99", "10000", "--min-chars-per-second", "1")
    done = locust(server.address, "--processes", "2", "--max-chars", "100", *kept, seconds=3)
    assert done.returncode == 0, done.stderr
    streams, chars = re.search(r"([\d,]+) finished, 0 failed, [\s\S]+?characters +([\d,]+) in", done.stdout).groups()  # type: ignore[union-attr]
    assert int(chars.replace(",", "")) >= 100 * int(streams.replace(",", "")) > 0


def test_workers_elsewhere_and_their_master_make_one_report(server: ServerProcess, tmp_path: Path) -> None:
    """The master has another address than the workers reach the server by; the rate is that of all together."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.2", 0))
        port = str(free.getsockname()[1])
    run = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", server.address, "--skip-log-setup"]
    run += ["--scenario", "open", "--rate", "20", "--max-chars", "50", "--warmup", "0"]
    workers = [
        subprocess.Popen([*run, "--worker", "--master-host", "127.0.0.2", "--master-port", port]) for _ in range(2)
    ]
    master = [*run, "--headless", "-u", "2", "-r", "2", "-t", "8s", "--master", "--expect-workers", "2"]
    master += ["--master-bind-host", "127.0.0.2", "--master-bind-port", port, "--result", str(tmp_path / "result.json")]
    try:
        done = subprocess.run(master, capture_output=True, text=True, timeout=SECONDS)
        assert [worker.wait(SECONDS) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert done.returncode == 0, done.stderr
    (one,) = read_document(tmp_path / "result.json")["runs"]
    streams, chars = one["counts"]["finished"], one["counts"]["chars"]
    assert f"{streams:,} finished, 0 failed" in done.stdout
    assert chars >= 50 * streams > 0
    assert streams <= 1.5 * 20 * 8, "each worker made the load of all"


def test_locusts_page_counts_texts_and_characters(server: ServerProcess) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", server.address, "--autostart"]
    command += [*PAUSES, "-u", "2", "-r", "2", "-t", "2s", "--web-host", "127.0.0.1", "--web-port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=SECONDS) as answer:
            return answer.read().decode()  # type: ignore[no-any-return]

    try:
        wait_until(lambda: " 0 finished" not in get("/texts"))
        page, stats = get("/"), json.loads(get("/stats/requests"))
        script = get(re.search(r'src="\.?(/assets/[^"]+\.js)"', page)[1])  # type: ignore[index]
        assert 'fetch("texts")' in page
        for text in (script, get("/stats/report")):
            assert "(characters)" in text
            assert "(bytes)" not in text
        assert [entry["name"] for entry in stats["stats"]] == ["whole call", "Aggregated"]
        assert re.search(r"[\d,]+ chars/s", get("/texts"))
    finally:
        process.terminate()
        process.wait(SECONDS)


def test_the_command_prints_its_table_on_stdout_and_writes_a_report(server: ServerProcess, tmp_path: Path) -> None:
    flags = ("--max-first-char-p99", "10000", "--max-gap-p99", "10000", "--min-chars-per-second", "10")
    # More users than gevent's ten native threads: each of them has to get its texts.
    done = command(
        "--host", server.address, "--users", "24", "--seconds", "2", "--report", str(tmp_path / "run"), *flags
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"[\d,]+ finished, 0 failed, ", done.stdout)
    assert re.search(r"[\d,]+ chars/s", done.stdout)
    assert "first character" in done.stdout
    page = (tmp_path / "run" / "locust.html").read_text()
    assert re.search(r"[\d,]+ chars/s", page)
    assert "(bytes)" not in page
    assert int(rows(tmp_path / "run" / "stats_stats.csv")["whole call"]["Request Count"]) >= 24


def test_the_command_fails_by_a_threshold(server: ServerProcess) -> None:
    done = command("--host", server.address, "--users", "2", "--seconds", "1", "--max-gap-p99", "0.0001")
    assert done.returncode == 1
    assert "--max-gap-p99: " in done.stderr
    assert "finished" in done.stdout


@pytest.mark.parametrize(
    "flags",
    [
        ("--prompt", "The", "--prompt", "café"),
        ("--max-chars", "100001"),
        ("--temperature", "-1"),
    ],
)
def test_a_request_that_cannot_work_is_refused_before_the_run(
    server: ServerProcess, charstream: Charstream, flags: tuple[str, ...]
) -> None:
    done = charstream("loadtest", "--host", server.address, "--users", "2", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert flags[-2].removeprefix("--").replace("-", "_") in done.stderr


def test_a_refused_text_is_a_failure_with_its_reason(server: ServerProcess) -> None:
    done = locust(server.address, "--prompt", "café", seconds=1)
    assert done.returncode == 1
    assert "no stream finished" in done.stderr
    assert "--max-failures: " in done.stderr
    assert "é" in done.stdout


@pytest.mark.parametrize("flags", [["--users", "0"], ["--max-chars", "0"], ["--max-failures", "-1"], ["--prompt"]])
def test_a_wrong_value_is_one_line_and_exit_code_2(charstream: Charstream, flags: list[str]) -> None:
    done = charstream("loadtest", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert flags[0] in done.stderr


def test_a_report_that_cannot_be_written_is_said_before_the_run(
    server: ServerProcess, charstream: Charstream, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = charstream("loadtest", "--host", server.address, "--report", str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"charstream loadtest: --report {tmp_path / 'file'}: file exists; name another folder\n"


def test_a_model_that_is_not_served_is_said_before_the_run(server: ServerProcess, charstream: Charstream) -> None:
    done = charstream("loadtest", "--host", server.address, "--model", "huge")
    assert (done.returncode, done.stdout) == (2, "")
    assert "huge" in done.stderr


def test_a_text_of_the_wrong_length_is_a_failure() -> None:
    def short(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        yield from text("ab", "c")
        yield finish(4)

    with serving(short) as server:
        done = locust(server.address, seconds=1)
    assert done.returncode == 1
    assert "0 finished" in done.stdout
    assert "3 characters came" in done.stdout


def test_failures_up_to_the_limit_are_allowed_and_do_not_flood_the_server() -> None:
    asked: list[str] = []

    def first_refused(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        asked.append(request.prompt)
        if len(asked) <= 4:
            abort(context, grpc.StatusCode.UNAVAILABLE, "not yet")
        yield from text("abc")
        time.sleep(0.05)
        yield finish(3)

    with serving(first_refused) as server:
        done = locust(server.address, "--max-failures", "4", seconds=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 failed" in done.stdout


def test_characters_of_streams_that_the_end_cut_off_count() -> None:
    with serving(endless) as server:
        done = locust(server.address, seconds=2)
        assert server.ended.wait(SECONDS)
    assert "0 finished, 0 failed, 4 cut off" in done.stdout
    assert not re.search(r" 0 chars/s", done.stdout)
    assert done.returncode == 1


def test_prompts_and_seeds_are_the_same_in_every_run_and_differ_between_texts() -> None:
    def asked() -> list[tuple[int, str]]:
        seen: list[tuple[int, str]] = []

        def note(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
            seen.append((request.seed, request.prompt))
            yield from text("abc")
            time.sleep(0.05)
            yield finish(3)

        with serving(note) as server:
            flags = ("--prompt", "a", "--prompt", "b", "--prompt", "c", "--check", "0")
            assert locust(server.address, *flags, seconds=1).returncode == 0
        return sorted(seen)

    first, second = asked(), asked()
    common = {user << 32 | number for user in range(4) for number in range(3)}
    assert [pair for pair in first if pair[0] in common] == [pair for pair in second if pair[0] in common]
    assert common <= {seed for seed, _ in first}
    assert len({seed for seed, _ in first}) == len(first)
    assert {prompt for _, prompt in first} == {"a", "b", "c"}


def test_ctrl_c_ends_the_run_with_its_table() -> None:
    # A shell that runs the tests in the background has them ignore SIGINT, and so would the command.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from loadtest.__main__ import main; sys.exit(main())"
    asked: list[str] = []

    def counted(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        asked.append(request.prompt)
        yield from endless(request, context)

    with serving(counted) as server:
        flags = [
            "--host",
            server.address,
            "--null-seconds",
            "0",
            "--users",
            "4",
            "--seconds",
            "50",
            "--prompt",
            "a",
            "--check",
            "0",
        ]
        process = subprocess.Popen(
            [sys.executable, "-c", code, *flags], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            wait_until(lambda: len(asked) > 1)  # the first call is the command's own
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command and to Locust
            said, _ = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 130
    assert "cut off" in said
