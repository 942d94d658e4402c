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
from server.runner import CannotRun, Runner
from server.settings import ServerSettings
from server.streams import Streams
from server.values import Stop

__all__ = ["Catalog", "ServedModel", "numerics_of"]

log = logging.getLogger("charstream.models")

PRECISION = "fp32"
# The probe's batches, and how many characters each row samples.
PROBE_ROWS, PROBE_SAMPLED = (1, 16), 32


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
            except CannotRun as error:
                log.error("not served: %s: %s", folder, error)
            else:
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
    """Runs a fixed probe and digests its bits: equal digests promise equal text for equal bundles.

    Every character is forced once, then some are sampled, with few and with many rows. Raises CannotRun.
    """
    digest = hashlib.sha256()
    vocab, hidden = len(manifest.symbols), manifest.model.hidden
    for rows in PROBE_ROWS:
        token = np.zeros(rows, np.int64)
        state = [np.zeros((rows, hidden), np.float32) for _ in manifest.model.state_names]
        every_character = np.arange(-(-vocab // rows) * rows, dtype=np.int64).reshape(-1, rows) % vocab
        forced = np.concatenate([every_character, np.full((PROBE_SAMPLED, rows), -1)])
        tokens, after = np.empty_like(forced), [np.empty_like(array) for array in (token, *state)]
        uniform, steps = uniforms(np.arange(rows), 1, len(forced)), np.full(rows, len(forced))
        runner.run([token, *state], forced, uniform, steps, np.ones(rows, np.float32), tokens, after)
        if tokens.max() >= vocab or not all(np.isfinite(array).all() for array in after):
            raise CannotRun("the probe leads to characters that the vocabulary lacks, or to a state that is not finite")
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
    numerics = numerics_of(runner, manifest)
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
    engine.warm_up()
    engine.start()
    return ServedModel(manifest, bundle.digest, PRECISION, runner.provider, numerics, streams, engine)
