"""Engines in processes of their own: the same texts, whichever runs them or dies, and nothing left behind."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from select import select
from socket import socket, socketpair
from typing import cast
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from bundle.read import Bundle
from bundle.vocabulary import Vocabulary
from loadtest.server_metrics import parse_page
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from server.engine.messages import Cancel, EngineObserver, PoolObserver, Request, RowState, Sampling
from server.processes import cores, pool, process
from server.processes.cores import engines_for
from server.processes.frames import EngineReady, read_frame
from server.processes.process import EngineProcess, StartedProcess, start_process, stop_all
from server.settings import ServerSettings
from tests.conftest import ServerProcess, ready, start_server, stop

PROMPT = "To be, or not to be, that is the question:\n"
# A server whose engine processes die of the seed 666.
POISON = """
from server.processes import process
process.BOOT = '''import os, sys; sys.path[:] = sys.argv[2:]
from server.engine.engine import Engine
from server.processes.worker import main
begin = Engine._begin
def die_of_666(engine, request):
    if request.seed == 666:
        os._exit(13)
    begin(engine, request)
Engine._begin = die_of_666
main(int(sys.argv[1]))'''
"""
# A server that starts two engine processes and no third one.
NO_SUCCESSOR = """
from server.catalog import model_factory
from server.runtime.host_runner import CannotRun
starts, start = [], model_factory.start_process
def start_two(*arguments):
    starts.append(1)
    if len(starts) > 2:
        raise CannotRun("no third one")
    return start(*arguments)
model_factory.start_process = start_two
"""
# A server that takes an engine for hung after a second.
IMPATIENT = """
from server.processes import pool
pool.PING_SECONDS, pool.MOST_PINGS = 0.2, 5
"""
# A server that cannot start engine processes for a while.
NO_DESCRIPTORS = """
from server.catalog import model_factory
from server.processes import pool
pool.WAITS = (0.0, 0.01)
starts, start = [], model_factory.start_process
def start_some(*arguments):
    starts.append(1)
    if 2 < len(starts) < 12:
        raise OSError(24, "too many open files")
    return start(*arguments)
model_factory.start_process = start_some
"""
# A server whose first four engine processes are killed while they load: with three of them a load fails.
KILLED_AT_FIRST = """
from server.processes import process
process.BOOT = '''import os, pathlib, signal, sys; sys.path[:] = sys.argv[2:]
mark = pathlib.Path("MARK")
killed = len(mark.read_text()) if mark.exists() else 0
if killed < 4:
    mark.write_text("x" * (killed + 1))
    os.kill(os.getpid(), signal.SIGKILL)
from server.processes.worker import main; main(int(sys.argv[1]))'''
"""
RUN = "import sys; from server.__main__ import main; sys.exit(main())"


@contextmanager
def serving(bundles: Path, *flags: str, patch: str = "") -> Iterator[ServerProcess]:
    command = (sys.executable, "-c", f"{patch}\n{RUN}")
    process = start_server(bundles, "--precision", "fp32", "--max-chars", "100000", *flags, command=command)
    try:
        yield ready(process)
    finally:
        stop(process)


def engines_of(server: ServerProcess) -> list[int]:
    """The pids of its engine processes, the oldest first."""
    return children_of(server.process.pid)


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sorted(int(child) for task in tasks for child in (task / "children").read_text().split())


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.02)


def mixed_requests(count: int, chars: int) -> list[pb.GenerateRequest]:
    """Texts that differ in all that another engine has to know of them."""
    requests = []
    for seed in range(count):
        request = pb.GenerateRequest(prompt=PROMPT * (seed % 4), seed=seed, max_chars=chars)
        if seed % 3 == 1:
            request.MergeFrom(
                pb.GenerateRequest(stop=["e", "th"], min_chars=chars * 2 // 3, include_stop=seed % 2 == 0)
            )
        if seed % 3 == 2:
            request.MergeFrom(pb.GenerateRequest(sampling=pb.Sampling(top_k=5), logprobs=seed % 2))
        request.echo = seed % 4 == 3
        request.return_token = seed % 2 == 0
        if seed % 5 == 0:
            request.checkpoint_chars = 512
        if seed % 7 == 0:
            request.n = 2
        requests.append(request)
    return requests


def read(stub: rpc.TextGenerationStub, request: pb.GenerateRequest) -> list[object]:
    """All that came, but for times and for how it was cut into messages."""
    texts: dict[int, str] = {}
    scores: dict[int, list[float]] = {}
    finishes: dict[int, bytes] = {}
    checkpoints: dict[int, list[int]] = {}
    for message in stub.Generate(request, timeout=120):
        texts[message.index] = texts.get(message.index, "") + message.text
        scores.setdefault(message.index, []).extend(message.logprobs.chosen)
        if message.HasField("checkpoint"):
            checkpoints.setdefault(message.index, []).append(message.checkpoint.generated_chars)
        if message.HasField("finish"):
            assert bool(message.finish.resume_token) == request.return_token
            message.finish.ClearField("timings")
            message.finish.ClearField("resume_token")  # its place may have other tokens before it
            finishes[message.index] = message.finish.SerializeToString()
    gaps = [b - a for places in checkpoints.values() for a, b in zip([0, *places], places, strict=False)]
    assert all(gap >= 512 for gap in gaps), gaps
    return [texts, scores, finishes]


def read_all(server: ServerProcess, requests: Sequence[pb.GenerateRequest]) -> list[list[object]]:
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(len(requests)) as readers:
        stub = rpc.TextGenerationStub(channel)  # type: ignore[no-untyped-call]
        return list(readers.map(lambda request: read(stub, request), requests))


def test_no_text_depends_on_which_engine_runs_it_or_dies(bundles: Path) -> None:
    requests = mixed_requests(24, 2000)
    with serving(bundles) as server:
        expected = read_all(server, requests)
    with serving(bundles, "--engines", "3", "--metrics-port", "0") as server:
        assert read_all(server, requests[:12]) == expected[:12]
        wait_until(lambda: len(engines_of(server)) == 3)
        with ThreadPoolExecutor(1) as reading:
            found = reading.submit(read_all, server, requests)
            kills = 0
            while not found.done() and kills < 5:
                os.kill(engines_of(server)[0], signal.SIGKILL)  # the oldest: one that has texts
                kills += 1
                assert server.count("is ready in its place", kills) == kills
            assert found.result() == expected
        metrics = urlopen(f"http://127.0.0.1:{metrics_port(server)}/metrics").read().decode()
        assert f'charstream_engine_deaths_total{{model="tiny"}} {kills}.0' in metrics
        figures = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
        memory = [float(value) for name, value in figures.items() if name.startswith("charstream_engine_memory_bytes")]
        assert len(memory) == 3
        assert parse_page(metrics)["process_resident_memory_bytes"] == pytest.approx(
            float(figures["process_resident_memory_bytes"]) + sum(memory)
        )  # what a load test shows of this server


def metrics_port(server: ServerProcess) -> str:
    return server.wait_for(r"metrics on \S*:(\d+)").group(1)


def test_a_text_that_kills_its_engines_is_given_up_and_no_other_is_harmed(bundles: Path) -> None:
    requests = mixed_requests(6, 2000)
    with serving(bundles) as server:
        expected = read_all(server, requests)
    with serving(bundles, "--engines", "1", patch=POISON) as server, grpc.insecure_channel(server.address) as channel:
        stub = rpc.TextGenerationStub(channel)  # type: ignore[no-untyped-call]
        poison = stub.Generate(pb.GenerateRequest(seed=666, max_chars=2000), timeout=120)
        assert read_all(server, requests) == expected
        with pytest.raises(grpc.RpcError) as caught:
            list(poison)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "engine processes ended one after the other" in caught.value.details()


def test_the_server_ends_when_no_engine_can_be_kept_alive(bundles: Path) -> None:
    with serving(bundles, "--engines", "2", patch=NO_SUCCESSOR) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = rpc.TextGenerationStub(channel)  # type: ignore[no-untyped-call]
            begun = stub.Generate(pb.GenerateRequest(seed=1, max_chars=100_000), timeout=60)
            next(iter(begun))
            for pid in engines_of(server):
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(grpc.RpcError) as caught:
                list(begun)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.wait() == 1
        assert "the server ends: no engine process can be kept alive; the last one: no third one" in server.log


def test_texts_of_an_engine_that_hangs_go_on_elsewhere(bundles: Path) -> None:
    requests = mixed_requests(8, 3000)
    with serving(bundles) as server:
        expected = read_all(server, requests)
    with serving(bundles, "--engines", "2", patch=IMPATIENT) as server:
        for pid in engines_of(server):
            os.kill(pid, signal.SIGSTOP)
        assert read_all(server, requests) == expected
        assert server.count("gave no sign of life", 2) == 2


def test_texts_go_on_with_fewer_engines_while_none_can_be_started_and_then_use_all(bundles: Path) -> None:
    flags = ("--engines", "2", "--metrics-port", "0", "--max-rows", "8")
    with serving(bundles, *flags, patch=NO_DESCRIPTORS) as server, grpc.insecure_channel(server.address) as channel:
        stub = rpc.TextGenerationStub(channel)  # type: ignore[no-untyped-call]
        calls = [stub.Generate(pb.GenerateRequest(seed=seed, max_chars=100_000), timeout=120) for seed in range(4)]
        for call in calls:
            next(iter(call))
        os.kill(engines_of(server)[0], signal.SIGKILL)
        server.count("no engine process could be started", 9)
        server.count("is ready in its place", 1)
        assert len(engines_of(server)) == 2
        successor = engines_of(server)[1]
        before = busy_seconds(successor)
        wait_until(lambda: all(next(iter(call)).text for call in calls) and busy_seconds(successor) > before + 0.1)


def busy_seconds(pid: int) -> float:
    """Seconds that a process had of the processor."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_engine_outlives_its_server(number: signal.Signals, bundles: Path) -> None:
    with serving(bundles, "--engines", "2") as server:
        engines = engines_of(server)
        assert len(engines) == 2
        killed = engines[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: killed not in engines_of(server) and len(engines_of(server)) == 2)
        engines = engines_of(server)  # one of them just begins
        for pid in engines:  # as a terminal or a service manager would, which signal whole groups
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        server.count("is ready in its place", 1)
        assert engines_of(server) == engines
        assert len(read_all(server, mixed_requests(2, 50))) == 2
        server.signal(number)
        server.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in engines))


def test_time_limits_and_the_end_do_not_wait_for_an_engine_that_is_being_started(bundles: Path) -> None:
    """The only engine dies, and its successor hangs before it is ready."""
    flags, limit = ("--engines", "1", "--grace", "0.5", "--drain-delay", "0"), Duration(seconds=2)
    with serving(bundles, *flags) as server, grpc.insecure_channel(server.address) as channel:
        stub = rpc.TextGenerationStub(channel)  # type: ignore[no-untyped-call]
        request = pb.GenerateRequest(prompt=PROMPT, seed=1, max_chars=100_000)
        limited = stub.Generate(pb.GenerateRequest(prompt=PROMPT, seed=1, max_chars=100_000, time_limit=limit))
        with_token = pb.GenerateRequest(prompt=PROMPT, seed=1, max_chars=100_000, return_token=True)
        calls = [limited, stub.Generate(request), stub.Generate(with_token)]
        texts = [next(iter(call)).text for call in calls]
        (engine,) = engines_of(server)
        os.kill(engine, signal.SIGKILL)
        wait_until(lambda: engines_of(server) not in ([engine], []))
        (successor,) = engines_of(server)
        wait_until(lambda: "onnxruntime" in Path(f"/proc/{successor}/maps").read_text())  # it loads
        os.kill(successor, signal.SIGSTOP)
        try:
            messages = list(limited)
            assert messages[-1].finish.reason == pb.FINISH_REASON_DEADLINE
            texts[0] += "".join(message.text for message in messages)
            assert messages[-1].finish.generated_chars == len(texts[0])
            server.signal(signal.SIGTERM)
            for place in (1, 2):
                message = None
                with pytest.raises(grpc.RpcError) as caught:  # noqa: PT012 messages come before the error
                    for message in calls[place]:
                        texts[place] += message.text
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert message
                assert message.finish.reason == pb.FINISH_REASON_DRAINED
                assert bool(message.finish.resume_token) == (place == 2)
            assert server.wait() == 0
            longest = max(texts, key=len)
            assert all(longest.startswith(text) for text in texts)
            wait_until(lambda: not Path(f"/proc/{successor}").exists())  # though it never saw its connection close
        finally:
            with suppress(ProcessLookupError):
                os.kill(successor, signal.SIGKILL)


def test_a_text_ends_in_time_in_an_engine_that_hangs_and_goes_on_from_its_token(bundles: Path) -> None:
    with serving(bundles, "--engines", "1") as server, grpc.insecure_channel(server.address) as channel:
        stub = rpc.TextGenerationStub(channel)  # type: ignore[no-untyped-call]
        request = pb.GenerateRequest(prompt=PROMPT * 3, seed=1, max_chars=20_000, stop=["zzzz"], return_token=True)
        whole = stub.Generate(request, timeout=120)
        request.time_limit.FromMilliseconds(400)
        limited = stub.Generate(request, timeout=120)
        begun = [next(iter(call)).text for call in (whole, limited)]
        os.kill(engines_of(server)[0], signal.SIGSTOP)
        messages = list(limited)
        text, finish = begun[1] + "".join(message.text for message in messages), messages[-1].finish
        os.kill(engines_of(server)[0], signal.SIGCONT)
        assert finish.reason == pb.FINISH_REASON_DEADLINE
        rest = pb.GenerateRequest(resume_token=finish.resume_token, max_chars=20_000 - len(text), stop=["zzzz"])
        text += "".join(message.text for message in stub.Generate(rest, timeout=120))
        assert text == begun[0] + "".join(message.text for message in whole)


def test_processes_end_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs is waited for; the others hear meanwhile that they have to end."""
    monkeypatch.setattr(process, "END_SECONDS", 20.0)
    (ours, theirs), (others, end), ready = socketpair(), socketpair(), EngineReady("fp32", "CPU", "CPU", "", "")
    with ours, theirs, others, end, ExitStack() as processes:
        # Both end when the connection of the second one is closed.
        first, second = (processes.enter_context(subprocess.Popen(["cat"], stdin=theirs)) for _ in range(2))
        stop_all([StartedProcess(first, others, ready), StartedProcess(second, ours, ready)])
        assert [first.returncode, second.returncode] == [0, 0]


def test_a_text_does_not_wait_for_one_engine_while_another_has_a_free_row(bundles: Path) -> None:
    flags = ("--engines", "2", "--max-rows", "2", "--stream-buffer", "256")
    with serving(bundles, *flags) as server, grpc.insecure_channel(server.address) as channel:
        stub = rpc.TextGenerationStub(channel)  # type: ignore[no-untyped-call]
        long = [stub.Generate(pb.GenerateRequest(seed=seed, max_chars=100_000), timeout=120) for seed in range(2)]
        for call in long:
            next(iter(call))
        # Both engines have a text and a waiting one each; then one of the four goes, and one of the others.
        waiting = [stub.Generate(pb.GenerateRequest(seed=seed, max_chars=20), timeout=60) for seed in (2, 3)]
        long[0].cancel()
        for call in waiting:
            assert sum(len(message.text) for message in call) == 20
        long[1].cancel()


def test_a_model_whose_engine_is_killed_while_it_loads_is_loaded_again(bundles: Path, tmp_path: Path) -> None:
    """As by a system that was short of memory: the bundle is not to blame."""
    patch = KILLED_AT_FIRST.replace("MARK", str(tmp_path / "mark"))
    flags = ("--engines", "1", "--load", "lazy")
    with serving(bundles, *flags, patch=patch) as server, grpc.insecure_channel(server.address) as channel:
        stub = rpc.TextGenerationStub(channel)  # type: ignore[no-untyped-call]
        texts = [message.text for message in stub.Generate(pb.GenerateRequest(max_chars=9), timeout=60)]
        assert len("".join(texts)) == 9
        assert server.log.count("SIGKILL") == 4


async def test_a_text_that_comes_while_a_successor_is_connected_is_not_lost() -> None:
    ours, theirs = socketpair()
    with theirs, subprocess.Popen(["true"]) as process:
        ready = EngineReady("fp32", "CPU", "CPU", "", "")
        engine = EngineProcess(0, StartedProcess(process, ours, ready), lambda *_: None, lambda *_: None)
        connecting = asyncio.create_task(engine.connect())
        await asyncio.sleep(0)
        text = Request(np.zeros(0, np.int64), 0, 1, Sampling(), seed=0)
        engine.submit(text)
        await connecting
        engine.submit(Cancel(0))
        assert [command.stream for command in await asyncio.to_thread(read_frame, theirs)] == [text.stream]
        assert await asyncio.to_thread(read_frame, theirs) == [Cancel(0)]
        engine.started.stop()


async def test_no_text_is_moved_to_a_successor_that_died_while_it_was_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "WAITS", (0.0,))
    ready, ends = EngineReady("fp32", "CPU", "CPU", "", ""), list[socket]()
    with subprocess.Popen(["true"]) as process, ExitStack() as sockets:

        def start(index: int, is_wanted: Callable[[], bool]) -> StartedProcess:
            ours, theirs = socketpair()
            ends.append(sockets.enter_context(theirs))
            if len(ends) == 4:
                theirs.close()
            return StartedProcess(process, ours, ready)

        class Observer(PoolObserver):
            def engine(self, index: int, pid: int) -> EngineObserver:
                if len(ends) == 4:  # a text comes while the successor is connected
                    asyncio.get_running_loop().call_soon(submit, 6)
                return EngineObserver()

        engines = pool.EnginePool(
            start,
            [9] * 3,
            Vocabulary("ab"),
            RowState(0, (), 0),
            deliver=lambda *_: None,
            give_up=lambda *_: None,
            failed=lambda _: None,
            observer=Observer(),
        )

        def submit(stream: int) -> None:
            engines.submit(Request(np.zeros(0, np.int64), 0, 1, Sampling(), seed=stream, stream=stream))

        await engines.connect([start(index, lambda: True) for index in range(3)])
        for stream in range(6):
            submit(stream)
        ends[0].close()
        while len(ends) < 5 or not select([ends[4]], [], [], 0)[0]:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        assert sorted(seed for end in (ends[1], ends[2], ends[4]) for seed in seeds_held(end)) == list(range(7))
        engines.stop()


def test_a_process_that_loads_a_model_which_is_unloaded_meanwhile_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "BOOT", "import time; time.sleep(600)")
    before = children_of(os.getpid())
    with pytest.raises(InterruptedError):
        start_process(cast(Bundle, None), cast(ServerSettings, None), lambda: False)
    assert children_of(os.getpid()) == before


def seeds_held(end: socket) -> list[int]:
    """The seeds of the texts that were sent to an engine process, but for those that it shall forget."""
    texts = dict[int, int]()
    end.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            for command in read_frame(end):
                if isinstance(command, Request):
                    texts[command.stream] = command.seed
                else:
                    del texts[command.stream]
    return list(texts.values())


def test_one_core_is_left_for_the_event_loop_where_there_are_more_than_two() -> None:
    assert [engines_for(cores) for cores in (1, 2, 3, 4, 64)] == [1, 2, 2, 3, 8]


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({}, 4),
        ({".": "max 100000", "system.slice/charstream.service": "250000 100000"}, 3),  # systemd's CPUQuota=250%
        ({".": "150000 100000"}, 2),  # a container that sees its own group as the root
        ({"system.slice": "50000 100000", "system.slice/charstream.service": "max 100000"}, 1),
    ],
)
def test_the_processor_share_of_control_groups_counts(
    quotas: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.write_text("0::/system.slice/charstream.service\n")
    for group, quota in quotas.items():
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "cpu.max").write_text(quota)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN_CGROUP", own)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert cores.usable_cores() == expected


def test_a_text_whose_engine_died_is_not_refused_for_waiting(bundles: Path) -> None:
    """The other engine has no free row, and a successor takes longer than --max-wait."""
    flags = ("--engines", "2", "--max-rows", "2", "--max-wait", "0.1")
    with serving(bundles, *flags) as server, grpc.insecure_channel(server.address) as channel:
        stub = rpc.TextGenerationStub(channel)  # type: ignore[no-untyped-call]
        calls = [stub.Generate(pb.GenerateRequest(seed=seed, max_chars=30_000), timeout=120) for seed in range(2)]
        begun = ["".join(message.text for message in itertools.islice(call, 2)) for call in calls]
        os.kill(engines_of(server)[0], signal.SIGKILL)
        texts = [start + "".join(message.text for message in call) for start, call in zip(begun, calls, strict=True)]
        assert [len(text) for text in texts] == [30_000, 30_000]
