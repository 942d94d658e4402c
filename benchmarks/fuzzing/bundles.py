"""Surfaces of manifests and ONNX files: read as servers read them, then loaded in another process."""

import json
import os
import resource
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import onnx
from google.protobuf.message import DecodeError

from benchmarks.fuzzing.mutations import change_bytes, change_json, change_message
from benchmarks.fuzzing.surface import Fault, Surface
from bundle.manifest import sha256
from bundle.read import MANIFEST, STEP, BundleError, decode_file, full_file, read_bundle
from server.runtime.host_runner import CannotRun
from server.runtime.load import load
from server.settings import ServerSettings

__all__ = ["bundle_surfaces"]

GRAPHS = (decode_file("fp32"), full_file("fp32"), STEP)
LOAD_SECONDS = 60
# A graph that takes more is refused for want of memory, and takes none from other processes.
MOST_BYTES = 4 << 30
REFUSED = "refused"


class Loader:
    """A process in which onnxruntime loads bundles and runs their probe: a crash there does not end the fuzzer."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_load_bundles, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def load(self, folder: Path) -> str:
        """Return "OK" or "refused". Raises Fault."""
        self._pipe.send(folder)
        if not self._pipe.poll(LOAD_SECONDS):
            self.end()
            raise Fault(f"loading takes more than {LOAD_SECONDS} s")
        try:
            answer = str(self._pipe.recv())
        except EOFError:
            self._process.join()
            raise Fault(f"the process that loads ended with {self._process.exitcode}") from None
        if answer not in ("OK", REFUSED):
            raise Fault(answer)
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def _load_bundles(pipe: "Connection[str, Path]") -> None:
    """Load each bundle whose folder comes in, and answer."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    settings = ServerSettings(provider="cpu", precision="fp32", threads=1)
    while True:
        try:
            load(read_bundle(pipe.recv()), settings)
            pipe.send("OK")
        except EOFError:  # nobody asks any more
            return
        except CannotRun:
            pipe.send(REFUSED)
        except Exception as error:
            pipe.send("".join(traceback.format_exception(error)))


class Bundles:
    """A copy of a bundle, in which one file is replaced at a time."""

    def __init__(self, bundle: Path, folder: Path, loader: Loader) -> None:
        self._folder, self._loader = Path(shutil.copytree(bundle, folder / "bundle")), loader
        self.manifest = (self._folder / MANIFEST).read_bytes()
        self.graphs = [(self._folder / name).read_bytes() for name in GRAPHS]

    def take_manifest(self, data: bytes) -> str:
        with self._replace({MANIFEST: data}):
            return self._outcome()

    def take_graph(self, data: bytes) -> str:
        """Replace one graph: the first byte says which, the others are its content."""
        name, content = GRAPHS[data[0] % len(GRAPHS)] if data else STEP, data[1:]
        manifest = json.loads(self.manifest)
        manifest["files"][name] = {"sha256": sha256(content), "bytes": len(content)}
        with self._replace({name: content, MANIFEST: json.dumps(manifest).encode()}):
            return self._outcome()

    def _outcome(self) -> str:
        try:
            read_bundle(self._folder)
        except BundleError as error:
            if "\n" in str(error) or len(str(error)) > 2000:
                raise Fault(f"not one line: {error}") from None
            return REFUSED
        return self._loader.load(self._folder)

    @contextmanager
    def _replace(self, files: dict[str, bytes]) -> Iterator[None]:
        before = {name: (self._folder / name).read_bytes() for name in files}
        try:
            for name, data in files.items():
                (self._folder / name).write_bytes(data)
            yield
        finally:
            for name, data in before.items():
                (self._folder / name).write_bytes(data)


@contextmanager
def bundle_surfaces(bundle: Path) -> Iterator[Sequence[Surface]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        loader = Loader()
        stack.callback(loader.end)
        bundles = Bundles(bundle, folder, loader)
        graphs = [bytes([number]) + data for number, data in enumerate(bundles.graphs)]
        yield (
            Surface("manifests", [bundles.manifest], bundles.take_manifest, _change_manifest),
            Surface("graphs", graphs, bundles.take_graph, _change_graph),
        )


def _change_manifest(data: bytes, rng: Random) -> bytes:
    try:
        return change_json(data, rng) if rng.random() < 0.8 else change_bytes(data, rng)
    except (ValueError, RecursionError):  # no JSON any more
        return change_bytes(data, rng)


def _change_graph(data: bytes, rng: Random) -> bytes:
    """Change mostly nodes, their attributes and edges: weights may be any numbers."""
    which, content = data[:1], data[1:]
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        return which + change_bytes(content, rng)
    plain = rng.random() < 0.2
    return which + (change_bytes(content, rng) if plain else change_message(model, rng).SerializeToString())
