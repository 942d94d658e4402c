"""The benchmarks run and say what they promise; how fast anything is, no test says."""

import json
import re
from pathlib import Path

import pytest

import benchmarks.cuda.__main__ as cuda
from benchmarks import presets
from benchmarks.cuda.parts import PARTS, CudaSettings, Part
from benchmarks.support import load, servers
from charstream.settings import parse
from models.train import train_model
from models.training.settings import TrainSettings
from tests.forked import ForkingSubprocess, context, run_forked

pytestmark = pytest.mark.slow


# A benchmark whose servers and clients are forked too.
PROGRAM = """
import runpy, sys
from benchmarks.support import load, servers
from tests.forked import ForkingSubprocess, context
servers.subprocess = ForkingSubprocess()
load.get_context = lambda method: context
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def benchmark(name: str, *flags: str) -> str:
    result = run_forked(["-c", PROGRAM, f"benchmarks.{name}", *flags], timeout=500)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_no_text_differs_alone_and_under_load(bundles: Path) -> None:
    out = benchmark("correctness.determinism", "--bundle", str(bundles / "tiny"), "--requests", "26")
    assert out.count("26 requests") == 2
    assert out.count("; 0 texts differ") == 2


def test_throughput_prints_every_load_in_both_precisions(bundles: Path) -> None:
    sizes = ("--rounds", "1", "--seconds", "0.1", "--engines", "0")
    out = benchmark("speed.throughput", "--bundle", str(bundles / "tiny"), *sizes)
    for row in ("fp32 B=1 ", "int8 B=64 ", "int8 B=256 "):
        assert out.count(row) >= 2


def test_long_prompts_prints_the_gaps_with_and_without(bundles: Path) -> None:
    out = benchmark("speed.long_prompts", "--bundle", str(bundles / "tiny"), "--rounds", "1", "--seconds", "1.5")
    assert "gap p99 with prompts / without" in out
    assert "of 2 had a first character" in out


def test_memory_prints_what_remains(bundles: Path) -> None:
    flags = ("--streams", "40", "--rounds", "1", "--seconds", "0.5")
    out = benchmark("speed.memory", "--bundle", str(bundles / "tiny"), *flags)
    assert "engine, round 1: 40 texts" in out
    assert "40 of 40 streams delivered" in out


def test_the_same_calls_have_the_same_answers_whatever_the_number_of_engine_processes(bundles: Path) -> None:
    flags = ("--calls", "30", "--engines", "2")
    out = benchmark("correctness.engines", "--bundle", str(bundles / "tiny"), *flags)
    assert out.count("--engines 2: 0 of 30 differ") == 2
    assert "tokens followed" in out


def test_chaos_among_engine_processes_harms_no_text(bundles: Path) -> None:
    sizes = ("--streams", "10", "--chars", "600", "--resumes", "10", "--every", "1")
    out = benchmark("correctness.chaos", "--kill", "engines", "--bundle", str(bundles / "tiny"), *sizes)
    assert "none failed" in out
    assert "texts that differ from the undisturbed ones: 0" in out


def test_engine_processes_are_measured_beside_bare_sessions(bundles: Path) -> None:
    sizes = ("--rows", "8", "--rounds", "1", "--seconds", "0.2")
    out = benchmark("processes.alone", "--bundle", str(bundles / "tiny"), *sizes)
    assert re.search(r"engines 1 / bare 1 \d.*, engines 2 / bare 2 \d", out)


def test_the_front_is_measured_before_engines_that_are_played(bundles: Path, tmp_path: Path) -> None:
    sizes = ("--engines", "2", "--streams", "4", "--clients", "1", "--rounds", "1", "--seconds", "0.5")
    profile = tmp_path / "profile"
    out = benchmark("processes.front", "--bundle", str(bundles / "tiny"), *sizes, "--profile", str(profile))
    assert re.search(r"2 engines x 4 texts, 1 clients: .* messages/s", out)
    assert "function calls" in profile.read_text()


def test_the_first_character_is_the_bare_handlers(bundles: Path) -> None:
    out = benchmark("processes.first_character", "--bundle", str(bundles / "tiny"), "--calls", "5", "--chars", "40")
    assert "charstream: first message of" in out
    assert "of the bare handler's" in out


def test_sequences_are_held_continued_and_evicted(bundles: Path) -> None:
    flags = ("--sequences", "500", "--continued", "40")
    out = benchmark("doors.sequences", "--bundle", str(bundles / "tiny"), *flags)
    assert "500 sequences begun" in out
    assert "40 went on at random: 0 wrong" in out
    assert "that were evicted 0 do not say so" in out


def test_the_hosts_part_is_measured_before_a_device_that_is_played(device_bundles: Path) -> None:
    flags = ("--rows", "4", "--rounds", "1", "--seconds", "0.2", "--clients", "1", "--step-us", "50")
    out = benchmark("speed.host_part", "--bundle", str(device_bundles / "tiny"), *flags)
    assert re.search(r"4 texts, a step in 50 us: device 80,000 chars/s, engine .* gRPC .* messages/s", out)
    assert "CPU seconds a second" in out


def test_the_table_of_presets_has_what_their_runs_came_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is finished is not trained again; the picture is drawn."""
    monkeypatch.setenv("CHARSTREAM_CACHE", str(tmp_path))
    (tmp_path / "text.txt").write_text("the sea is low tonight and cafés close at one\n" * 100)
    sizes = ("--hidden", "16", "--batch", "4", "--sequence", "16", "--precision", "fp32", "--steps", "3")
    run = ["--data", str(tmp_path / "text.txt"), "--preset", "tiny", *sizes, "--out", str(tmp_path / "tiny")]
    result = train_model(parse(TrainSettings, run, command="charstream train"))
    picture = tmp_path / "presets.png"
    flags = ("--only", "tiny", "--rounds", "1", "--seconds", "0.01", "--picture", str(picture))
    assert presets.main(["--runs", str(tmp_path), *flags]) == 0
    losses = rf"{result['carried_nats']:.4f} \| \d\.\d{{4}}"
    row = rf"\| tiny \| GRU 1x16 \| [\d,]+ \| 192 \| 0.0 \| {losses} (\| [\d,]+ ){{4}}\|"
    assert re.search(row, capsys.readouterr().out)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_gpu_is_measured_with_runs_on_a_processor(
    device_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here in one process, which imports torch once; that parts have their own, the next test shows."""
    monkeypatch.setattr(cuda, "run", lambda settings, part, limit: PARTS[part](settings))
    monkeypatch.setattr(servers, "subprocess", ForkingSubprocess())
    monkeypatch.setattr(load, "get_context", lambda method: context)
    text = tmp_path / "text.txt"
    text.write_text("the sea is low tonight and cafés close at one\n" * 400)
    flags = ("--provider", "cpu", "--precision", "fp32-cuda", "--bundle", str(device_bundles / "tiny"))
    sizes = ("--rows", "8", "--seconds", "0.05", "--clients", "1", "--requests", "5", "--minutes", "1")
    assert cuda.main([*flags, *sizes, "--data", str(text)]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"(\w+): (?:done|None),", out) == [part for part in PARTS if part not in ("export", "gpu_tests")]
    for found in (
        "GB/s",
        "K=64: ",
        "bucket of 1, ",
        "roofline",
        "of the graph",
        "messages/s",
        "CPU seconds",
        "0 texts differ",
    ):
        assert found in out
    assert re.search(r"training, .* chars/s, .* on cpu", out)
    assert re.search(r"nats after .* best \d", out)


def test_a_short_run_does_what_is_worth_most_first_and_ends_in_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    limits = dict[str, float]()

    def run(settings: CudaSettings, part: Part, limit: float) -> str | None:
        limits[part] = limit
        settings.record(part, rows=1)
        return "exit code 1" if part == "smoke" else None

    monkeypatch.setattr(cuda, "run", run)
    assert cuda.main(["--short", "270", "--bundle", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert list(limits) == ["device", "smoke", "graph", "engine", "gpu_tests", "determinism", "training", "grpc"]
    assert sum(limits.values()) <= 270
    assert out.count("its speeds mean nothing") == 1
    document = json.loads(out.splitlines()[-1])
    assert document["failed"] == {"smoke": "exit code 1"}
    assert [figure["name"] for figure in document["figures"]] == list(limits)
    with pytest.raises(SystemExit) as ended:
        cuda.main(["--short", "270"])
    assert ended.value.code == 2


def test_a_part_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "subprocess", ForkingSubprocess())
    flags = ("--part", "training", "--part", "device", "--provider", "cpu", "--seconds", "0.05")
    assert cuda.main([*flags, "--data", str(tmp_path / "none.txt")]) == 1
    out = capfd.readouterr().out
    assert "training failed: exit code 1" in out
    assert "(device: done" in out
