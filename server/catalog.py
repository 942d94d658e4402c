"""The models of a server: found in a folder, checked, loaded, warmed up."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bundle.manifest import Manifest
from bundle.read import MANIFEST, Bundle, BundleError, read_bundle
from protos import charstream_pb2 as pb
from server.engine import Engine
from server.errors import InvalidField, ModelNotFound
from server.loading import load_runner
from server.runner import CannotRun
from server.settings import ServerSettings
from server.streams import Streams
from server.values import Reason, Stop

__all__ = ["Catalog", "ServedModel"]

log = logging.getLogger("charstream.models")


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

    @property
    def replica(self) -> pb.Replica:
        """What decides a text beside its request."""
        return pb.Replica(digest=self.digest, precision=self.precision, numerics=self.numerics)

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

    def drain_streams(self) -> None:
        """Ends what is open where it is, so that it can go on elsewhere."""
        for model in self:
            model.streams.conclude_all(Reason.DRAINED)

    def fail_streams(self) -> None:
        for model in self:
            model.streams.fail_all()

    def stop(self) -> None:
        """Ends the engines, at the end of the tick that runs."""
        for model in self:
            model.engine.submit(Stop())
        for model in self:
            model.engine.join()


def _bundle_folders(folder: Path) -> list[Path]:
    if (folder / MANIFEST).exists():
        return [folder]
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _serve(bundle: Bundle, settings: ServerSettings, engine_failed: Callable[[BaseException], None]) -> ServedModel:
    manifest = bundle.manifest
    precision, runner, numerics = load_runner(bundle, settings)
    streams = Streams(
        limit=settings.max_rows + settings.max_waiting,
        window=settings.stream_buffer,
        tick=settings.chunk_seconds,
        max_wait=settings.max_wait,
    )
    engine = Engine(
        runner,
        manifest,
        max_rows=settings.max_rows,
        max_batch=settings.max_batch,
        chunk_delay=settings.chunk_seconds,
        prefix_bytes=settings.prefix_bytes,
        max_wait=settings.max_wait,
        deliver=streams.deliver,
        failed=engine_failed,
    )
    streams.attach(engine)
    engine.warm_up()
    engine.start()
    return ServedModel(manifest, bundle.digest, precision, runner.provider, numerics, streams, engine)
