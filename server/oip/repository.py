"""The models of the server as clients of the protocol see them: which there are, ready or not, and their counts."""

from collections.abc import Sequence
from typing import Protocol

from protos import inference_pb2 as oip
from server.catalog.loaded_model import ServedModel
from server.catalog.loader import Loader
from server.catalog.versions import Standing, Version, Versions
from server.errors import InvalidField, ModelNotFound, ModelUnusable, NotAllowed
from server.observe.statistics import Statistics
from server.observe.totals import RunTotals, Total
from server.oip.describe import Sequencing, model_config, model_metadata
from server.oip.names import STEP, Target, find_target
from server.settings import ServerSettings
from server.streaming.sequences import capacity

__all__ = ["Repository"]

NANOSECONDS = 1e9
LOADED_LATER = "the first request for it loads it"


class Models(Protocol):
    """The models with what may be done to them; see server/catalog/catalog.py."""

    versions: Versions
    loader: Loader[ServedModel]

    async def load(self, name: str) -> None: ...

    def unload(self, name: str) -> None: ...


class Repository:
    """Describes models, and loads and unloads them if `--admin` allows it."""

    def __init__(self, models: Models, settings: ServerSettings, statistics: Statistics, runs: RunTotals) -> None:
        self._models, self._settings, self._statistics, self._runs = models, settings, statistics, runs

    def find(self, name: str, version: str) -> Target:
        """Return the model that a request means, whether there is one or not."""
        return find_target(name, version, self._models.versions)

    def is_ready(self, name: str, version: str) -> bool:
        """Return whether a request for the model would be served, be it that it is loaded first."""
        try:
            self._find(name, version)
        except (ModelNotFound, ModelUnusable, InvalidField):
            return False
        return True

    def metadata(self, name: str, version: str) -> oip.ModelMetadataResponse:
        target, chosen = self._find(name, version)
        manifest = chosen.found.manifest
        known = [other for other in self._models.versions.of(manifest.name) if other.is_usable]
        versions = [other.found.manifest.version for other in known]
        return model_metadata(_name(chosen, target), versions, manifest, is_step=target.is_step)

    def config(self, name: str, version: str) -> oip.ModelConfig:
        target, chosen = self._find(name, version)
        manifest, model = chosen.found.manifest, self._models.loader.get(chosen)
        facts = {"digest": chosen.found.digest}
        if model:
            facts |= {"precision": model.precision, "provider": model.provider, "numerics": model.numerics}
        if target.is_step:
            facts |= {"precision": "fp32"}
        places = capacity(manifest.model, self._settings.sequence_bytes)
        sequencing = Sequencing(places, self._settings.sequence_idle)
        return model_config(_name(chosen, target), manifest, facts, sequencing, is_step=target.is_step)

    def index(self, *, only_ready: bool) -> oip.RepositoryIndexResponse:
        response = oip.RepositoryIndexResponse()
        for version in self._models.versions:
            state, reason = _state(version)
            if state == "READY" or not only_ready:
                for suffix in ("", STEP):
                    manifest = version.found.manifest
                    name = manifest.name + suffix
                    response.models.add(name=name, version=manifest.version, state=state, reason=reason)
        return response

    def statistics(self, name: str, version: str) -> oip.ModelStatisticsResponse:
        """Return the counts of one model, of all its versions, or of all models."""
        response = oip.ModelStatisticsResponse()
        if name:
            target, chosen = self._find(name, version)
            found = [chosen] if version else self._models.versions.of(chosen.found.manifest.name)
            response.model_stats.extend(self._counts(one, is_step=target.is_step) for one in found)
        else:
            for one in self._models.versions:
                response.model_stats.extend(self._counts(one, is_step=is_step) for is_step in (False, True))
        return response

    async def load(self, name: str, parameters: Sequence[str]) -> None:
        """Load a model, after a look for new bundles. Raises RequestError."""
        self._check_admin("RepositoryModelLoad")
        if parameters:
            raise InvalidField(min(parameters), "a bundle has all that there is to say of a model: send none")
        await self._models.load(self._bundle_of(name))

    def unload(self, name: str) -> None:
        """Take all versions of a model out of service; each is unloaded when no call has it. Raises RequestError."""
        self._check_admin("RepositoryModelUnload")
        self._models.unload(self._bundle_of(name))

    def _check_admin(self, what: str) -> None:
        if not self._settings.admin:
            raise NotAllowed(f"{what} is not allowed: the server was started without --admin")

    def _bundle_of(self, name: str) -> str:
        return self.find(name, "").name

    def _find(self, name: str, version: str) -> tuple[Target, Version]:
        target = self.find(name, version)
        return target, self._models.versions.choose(target.name, "")

    def _counts(self, version: Version, *, is_step: bool) -> oip.ModelStatistics:
        manifest, model = version.found.manifest, self._models.loader.get(version)
        name = manifest.name + STEP * is_step
        counts = self._statistics.get(f"{name} {manifest.version}")
        runs = (model.steps.totals if model else {}) if is_step else self._runs.of(manifest.name, manifest.version)
        answer = oip.ModelStatistics(
            name=name,
            version=manifest.version,
            last_inference=int(counts.last * 1000),
            inference_count=counts.success.count,
            execution_count=sum(total.count for total in runs.values()),
            inference_stats=oip.InferStatistics(
                success=_duration(counts.success),
                fail=_duration(counts.fail),
                queue=_duration(counts.queue),
                compute_infer=_duration(counts.compute),
            ),
            batch_stats=[
                oip.InferBatchStatistics(batch_size=rows, compute_infer=_duration(total))
                for rows, total in sorted(runs.items())
            ],
        )
        if model and not is_step:
            answer.memory_usage.add(type="CPU" if model.provider.startswith("CPU") else "GPU", byte_size=model.memory)
        return answer


def _name(version: Version, target: Target) -> str:
    return version.found.manifest.name + STEP * target.is_step


def _state(version: Version) -> tuple[str, str]:
    """Return the state as Triton names it, and why."""
    if version.standing is Standing.UNLOADED:
        return "UNAVAILABLE", "unloaded"
    if not version.is_usable:
        return "UNAVAILABLE", version.problem
    if version.is_loaded:
        return "READY", ""
    return ("LOADING", "") if version.is_loading else ("READY", LOADED_LATER)


def _duration(total: Total) -> oip.StatisticDuration:
    return oip.StatisticDuration(count=total.count, ns=int(total.seconds * NANOSECONDS))
