"""Real parts for the tests: a small bundle and a server process that serves it."""

import fcntl
import gc
import hashlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from bundle.manifest import Manifest, Precision, TrainingRecord
from bundle.read import read_bundle
from bundle.vocabulary import Vocabulary
from bundle.write import write_bundle
from charstream.__main__ import main
from export.build import USUAL, build, unsupported_reason
from export.graph.sampling import TRIANGLE_CHARS
from models.network.char_lm import CharLM, ModelConfig
from models.training.checkpoint import Trained
from tests.forked import ForkedPython, end_forkserver

ASCII = "\n" + "".join(map(chr, range(32, 127)))
START_SECONDS = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: the processes that share the files (`make test`) then end at about the same time."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: nobody needs to look for garbage in it."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def engines_in_the_server() -> Iterator[None]:
    """Servers run models in their own process, which starts faster, unless a test says how many engines it wants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARSTREAM_ENGINES", "0")
        yield


@pytest.fixture(scope="session", autouse=True)
def forkserver_that_ends() -> Iterator[None]:
    yield
    end_forkserver()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The texts that tests prepare stay out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARSTREAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def tiny_model(*, layers: int = 2, hidden: int = 64, seed: int = 0, **options: object) -> Trained:
    """An untrained model whose characters are far from equally probable, so that a wrong state shows in its text.

    Its recurrent weights stay small: with large ones the rounding errors of two implementations grow from step to step.
    """
    torch.manual_seed(seed)
    sizes = {"vocab": len(ASCII), "layers": layers, "hidden": hidden, "embedding": 16}
    model = CharLM(ModelConfig.model_validate(options | sizes)).eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.bias_ih += torch.empty_like(layer.bias_ih).uniform_(-0.05, 0.05)
        if isinstance(model.embedding, torch.nn.Embedding):
            model.embedding.weight.mul_(4)
        model.head.weight.mul_(40)
    record = TrainingRecord(
        data="none",
        data_sha256="0" * 64,
        parameters=0,
        steps=0,
        seconds=0,
        validation_nats={"carried": 4.5},
        prompts=("The first line", "Another"),
    )
    return Trained(model, Vocabulary(ASCII), "\n", record)


def with_used_norms(trained: Trained) -> Trained:
    """Give a model's normalisations weights and statistics that are not the initial ones."""
    gains = [layer.gain.detach() for layer in trained.model.layers if layer.gain is not None]
    for tensor in (*trained.model.norms.state_dict().values(), *gains):
        if tensor.is_floating_point():
            tensor.uniform_(0.3, 1.7, generator=torch.Generator().manual_seed(0))
    return trained


def many_characters() -> Trained:
    """An Elman RNN that knows so many characters that their shares are added up by CumSum."""
    torch.manual_seed(0)
    vocab = TRIANGLE_CHARS + 75
    symbols = "".join(map(chr, range(0x4E00, 0x4E00 + vocab)))
    model = CharLM(ModelConfig(cell="rnn", vocab=vocab, layers=2, hidden=64, embedding=16)).eval()
    with torch.no_grad():
        model.head.weight.mul_(40)
    record = TrainingRecord(
        data="none", data_sha256="0" * 64, parameters=0, steps=0, seconds=0, validation_nats={"carried": 4.5}
    )
    return Trained(model, Vocabulary(symbols), symbols[0], record)


# Models with cells that "tiny" lacks, which several tests share. The last one has no 8 bits: it reads something else
# than its state, has normalisation, and operators that the others lack.
OTHER_CELLS: dict[str, Callable[[], Trained]] = {
    "gru": lambda: tiny_model(cell="gru", layers=3, hidden=50),
    "rnn": lambda: with_used_norms(tiny_model(cell="rnn", activation="sigmoid", recurrent_norm="layer", hidden=50)),
    "rnn, many characters": many_characters,
    "rnn, pre": lambda: with_used_norms(
        tiny_model(cell="rnn", activation="softplus", form="pre", norm="layer", residual=True, hidden=50)
    ),
}


@pytest.fixture(scope="session")
def tiny() -> Trained:
    return tiny_model()


Files = tuple[Manifest, dict[str, bytes]]
ExportOnce = Callable[..., Files]


@pytest.fixture(scope="session")
def export_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> ExportOnce:
    """`build`, but for the same model only once in this run: one of its processes exports, the others read."""
    own = tmp_path_factory.getbasetemp()
    folder = own if worker_id == "master" else own.parent  # in both cases a folder of this run

    def export(trained: Trained, name: str, precisions: Sequence[Precision] | None = None) -> Files:
        path = folder / f"{name}-{_digest(trained, precisions)}"
        with open(f"{path}.lock", "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                write_bundle(path, *build(trained, name, "1", precisions))
        found = read_bundle(path)
        return found.manifest, found.files

    return export


def _digest(trained: Trained, precisions: Sequence[Precision] | None) -> str:
    """Return a name for everything that an export depends on."""
    symbols, start, record = trained.vocabulary.symbols, trained.start_text, trained.record
    weights = trained.model.state_dict().items()
    parts = (
        *map(repr, (trained.model.config, trained.vocabulary.unit, symbols, start, record, precisions)),
        *(f"{name} {tensor.numpy().tobytes().hex()}" for name, tensor in weights),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@pytest.fixture(scope="session")
def cell_files(export_once: ExportOnce) -> Callable[[str], Files]:
    """Return one of OTHER_CELLS as a bundle with 8 bits, where it has them, and graphs for a device, one with 16."""

    def files(name: str) -> Files:
        trained = OTHER_CELLS[name]()
        usual = USUAL[:1] if unsupported_reason(trained, "int8") else USUAL
        return export_once(trained, "cell", [*usual, "fp32-cuda", *(["fp16-cuda"] if name == "gru" else [])])

    return files


def with_precisions(files: Files, *precisions: Precision) -> Files:
    """Return the files as of a bundle with these precisions alone."""
    return files[0].model_copy(update={"precisions": precisions}), files[1]


@pytest.fixture(scope="session")
def tiny_files(tiny: Trained, export_once: ExportOnce) -> Files:
    """The manifest and the files of the bundle "tiny"."""
    return export_once(tiny, "tiny")


@pytest.fixture(scope="session")
def device_files(tiny: Trained, export_once: ExportOnce) -> Files:
    """The manifest and the files of "tiny" with the precisions for a device, run on the CPU here."""
    return export_once(tiny, "tiny", ["fp32", "fp32-cuda", "fp16-cuda"])


@pytest.fixture(scope="session")
def device_bundles(device_files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with that bundle."""
    folder = tmp_path_factory.mktemp("device_bundles")
    write_bundle(folder / "tiny", *device_files)
    return folder


@pytest.fixture(scope="session")
def bundles(tiny_files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle "tiny"."""
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "tiny", *tiny_files)
    return folder


@dataclass
class ServerProcess:
    """A server in a process of its own, on a free port of 127.0.0.1."""

    process: "subprocess.Popen[str] | ForkedPython"
    address: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def web(self) -> str:
        """Where it speaks HTTP."""
        return self.wait_for(r"HTTP on ([^\s\"]+)").group(1)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = START_SECONDS) -> int:
        return self.process.wait(timeout)

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def count(self, text: str, expected: int) -> int:
        """How often the log has the text, once it has it as often as expected: lines take a while to come."""
        self.wait_for("(?s)" + ".*".join([re.escape(text)] * expected))
        return self.log.count(text)

    def wait_for(self, pattern: str, timeout: float = START_SECONDS) -> re.Match[str]:
        """Waits until the log has the pattern; fails with the log if the process ends or the time is over."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            found = re.search(pattern, self.log)
            if found:
                return found
            if self.process.poll() is not None:
                time.sleep(0.2)  # the log's last lines may still be on their way
                break
            time.sleep(0.02)
        found = re.search(pattern, self.log)
        if found:
            return found
        raise AssertionError(f"the server's log has no {pattern!r}:\n{self.log}")


def start_server(
    models: Path,
    *flags: str,
    command: Sequence[str] = (sys.executable, "-m", "server"),
    cwd: Path | None = None,
) -> ServerProcess:
    """Starts a server; its log is read as it comes. Python of our own environment is forked with its imports done."""
    words = [*command, "--models", str(models), "--port", "0", *flags]
    if words[0] == sys.executable:
        server = ServerProcess(ForkedPython(words[1:], stderr=subprocess.PIPE, cwd=cwd))
    else:
        server = ServerProcess(subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=cwd))
    threading.Thread(target=_read, args=(server,), daemon=True).start()
    return server


def _read(server: ServerProcess) -> None:
    assert server.process.stderr
    for line in server.process.stderr:
        server.lines.append(line)


def ready(server: ServerProcess) -> ServerProcess:
    """Waits until the server listens."""
    server.address = server.wait_for(r"listening on ([^\s\"]+)").group(1)
    return server


def stop(server: ServerProcess) -> None:
    """Ends the process if it still runs."""
    if server.process.poll() is None:
        server.signal(signal.SIGKILL)
        server.wait()
    if server.process.stderr:
        server.process.stderr.close()


@pytest.fixture(scope="session")
def server(bundles: Path) -> Iterator[ServerProcess]:
    """Serves "tiny" in float32, as torch computes it, by two engines, for the whole session; max_chars is 100000."""
    flags = ("--precision", "fp32", "--max-chars", "100000", "--max-prompt-chars", "20000")
    flags += ("--engines", "2", "--http-port", "0")
    process = start_server(bundles, *flags)
    yield ready(process)
    stop(process)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Charstream = Callable[..., Done]


@pytest.fixture
def charstream(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Charstream:
    """Runs one command in this process, as a shell would start it.

    `stdin` is what is piped into it, None for a standard input that is no file.
    """

    def run(*given: object, stdin: str | bytes | None = None) -> Done:
        argv = tuple(map(str, given))
        capsys.readouterr()
        if stdin is None:
            return Done(_code(argv), *capsys.readouterr())
        file = tmp_path / "stdin"
        file.write_bytes(stdin.encode() if isinstance(stdin, str) else stdin)
        with open(file, encoding="utf-8") as opened, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", opened)
            return Done(_code(argv), *capsys.readouterr())

    return run


def _code(argv: tuple[str, ...]) -> int:
    try:
        return main(argv)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
