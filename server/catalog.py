"""The models of a server: found in a folder, checked, loaded, warmed up."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bundle.manifest import Manifest
from bundle.philox import uniforms
from bundle.read import MANIFEST, Bundle, BundleError, decode_file, read_bundle
from server.engine import Engine
from server.errors import InvalidField, ModelNotFound
from server.runner import Runner
from server.settings import ServerSettings
from server.streams import Streams
from server.values import Stop

__all__ = ["Catalog", "ServedModel", "numerics_of"]

log = logging.getLogger("charstream.models")

PRECISION = "fp32"


@dataclass(frozen=True)
class ServedModel:
    """A model that is ready. `numerics`: digest of the probe's result on this machine."""

    manifest: Manifest
    digest: str
    precision: str
    provider: str
    numerics: str
    streams: Streams
    engine: Engine

    def __str__(self) -> str:
        shape = self.manifest.model
        return (
            f"{self.manifest.name} {self.manifest.version} ({shape.cell} {shape.layers}x{shape.hidden}, "
            f"{self.precision}, {self.provider}, digest {self.digest[:12]}, numerics {self.numerics})"
        )


class Catalog:
    """The served models by name."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}

    def load(self, settings: ServerSettings, engine_failed: Callable[[BaseException], None]) -> None:
        """Loads every bundle of the folder; one that cannot be used is reported, the others are served."""
        for folder in _bundle_folders(settings.models):
            try:
                bundle = read_bundle(folder)
                if bundle.manifest.name in self._models:
                    raise BundleError(f"{folder}: another bundle has the name {bundle.manifest.name!r} too")
                model = _serve(bundle, settings, engine_failed)
            except BundleError as error:
                log.error("not served: %s", error)
                continue
            self._models[bundle.manifest.name] = model
            log.info("serves %s", model)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def get(self, name: str) -> ServedModel:
        """The model of that name; of no name if there is only one. Raises ModelNotFound or InvalidField."""
        if name in self._models:
            return self._models[name]
        served = sorted(self._models)
        if name:
            raise ModelNotFound(name, served)
        if len(served) > 1:
            raise InvalidField(
                "model", f"is empty, which is allowed only where one is served; served are {', '.join(served)}"
            )
        return next(iter(self))

    async def wait_until_idle(self) -> None:
        """Returns when no stream is open."""
        for model in self:
            await model.streams.wait_until_empty()

    def fail_streams(self) -> None:
        for model in self:
            model.streams.fail_all()

    def stop(self) -> None:
        """Ends the engines, at the end of the tick that runs."""
        for model in self:
            model.engine.submit(Stop())
        for model in self:
            model.engine.join()


def numerics_of(runner: Runner, manifest: Manifest) -> str:
    """Runs a fixed probe and digests its bits: equal digests promise equal text for equal bundles."""
    digest = hashlib.sha256()
    for rows in (1, 5):
        steps, hidden, vocab = 32, manifest.model.hidden, len(manifest.symbols)
        token = np.arange(rows, dtype=np.int64) % vocab
        state = [np.zeros((rows, hidden), np.float32) for _ in manifest.model.state_names]
        after = [np.empty_like(array) for array in (token, *state)]
        tokens = np.empty((steps, rows), np.int64)
        forced = np.full((steps, rows), -1, np.int64)
        forced[: steps // 2] = np.arange(steps // 2 * rows).reshape(-1, rows) % vocab
        uniform = uniforms(np.arange(rows), 1, steps)
        runner.run(
            [token, *state], forced, uniform, np.full(rows, steps), np.ones(rows, np.float32), tokens, after
        )  # fmt: skip
        for array in (tokens, *after):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _bundle_folders(folder: Path) -> list[Path]:
    if (folder / MANIFEST).exists():
        return [folder]
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _serve(bundle: Bundle, settings: ServerSettings, engine_failed: Callable[[BaseException], None]) -> ServedModel:
    manifest = bundle.manifest
    graph = bundle.files[decode_file(PRECISION)]
    runner = Runner(graph, manifest.model, threads=settings.threads, provider=settings.provider)
    streams = Streams(
        limit=settings.max_rows + settings.max_waiting, window=settings.stream_buffer, tick=settings.chunk_seconds
    )
    engine = Engine(
        runner,
        manifest,
        max_rows=settings.max_rows,
        max_batch=settings.max_batch,
        chunk_delay=settings.chunk_seconds,
        deliver=streams.deliver,
        failed=engine_failed,
    )
    streams.attach(engine)
    numerics = numerics_of(runner, manifest)
    engine.warm_up()
    engine.start()
    return ServedModel(manifest, bundle.digest, PRECISION, runner.provider, numerics, streams, engine)
