"""The versions of the models, and which one a request means."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto

from server.catalog.scan import Found, version_order
from server.errors import InvalidField, ModelNotFound, ModelUnusable, join_names

__all__ = ["LoadState", "Standing", "Version", "Versions"]


class Standing(Enum):
    NEW = "new"  # is not the default yet: it has to show that it can be loaded
    OFFERED = "offered"
    FAILED = "failed"
    RETIRED = "retired"  # takes no new calls
    UNLOADED = "unloaded"  # takes no new calls until somebody has it loaded again


class LoadState(Enum):
    NOT_LOADED = auto()
    LOADING = auto()
    LOADED = auto()


class Version:
    """One version of a model, loaded or not.

    Attributes:
        users: calls that have it, or wait for it.
        used, loaded: time.monotonic() of the last use and of the load.
        problem: why it failed, for callers.
    """

    def __init__(self, found: Found) -> None:
        self.found, self.standing, self.load_state = found, Standing.NEW, LoadState.NOT_LOADED
        self.users = 0
        self.used = self.loaded = 0.0
        self.problem = ""

    @property
    def is_loaded(self) -> bool:
        return self.load_state is LoadState.LOADED

    @property
    def is_loading(self) -> bool:
        return self.load_state is LoadState.LOADING

    @property
    def is_idle(self) -> bool:
        """Whether it could be unloaded."""
        return self.is_loaded and not self.users

    @property
    def is_usable(self) -> bool:
        """Whether calls may choose it."""
        return self.standing not in (Standing.FAILED, Standing.UNLOADED)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1
            self.used = time.monotonic()

    def fail(self, problem: str) -> ModelUnusable:
        """Note that it cannot be used; return the error for its callers."""
        self.standing, self.problem = Standing.FAILED, problem
        return self.unusable()

    def unusable(self) -> ModelUnusable:
        return ModelUnusable(str(self.found), self.problem)

    def check_not_retired(self) -> None:
        """Raise ModelUnusable if it is retired: another version has to be chosen."""
        if self.standing is Standing.RETIRED:
            raise ModelUnusable(str(self.found), "it takes no new calls")

    def __str__(self) -> str:
        return str(self.found)


class Versions:
    """All versions that may be asked for: by name, the highest version first.

    Args:
        default: the name that requests mean which name no model; "" for that of the newest bundle.
    """

    def __init__(self, default: str = "") -> None:
        self._default, self._of = default, dict[str, list[Version]]()

    def __iter__(self) -> Iterator[Version]:
        return itertools.chain.from_iterable(self._of[name] for name in sorted(self._of))

    def of(self, name: str) -> Sequence[Version]:
        return self._of.get(name, ())

    def get(self, key: tuple[str, str]) -> Version | None:
        return next((version for version in self.of(key[0]) if version.found.key == key), None)

    def put(self, version: Version) -> None:
        """Add the version, in the place of one of the same name and number."""
        name = version.found.manifest.name
        others = [other for other in self.of(name) if other.found.key != version.found.key]
        ordered = sorted([*others, version], key=lambda one: version_order(one.found.manifest.version), reverse=True)
        self._of[name] = ordered

    def remove(self, version: Version) -> None:
        name = version.found.manifest.name
        self._of[name] = [other for other in self.of(name) if other is not version]
        if not self._of[name]:
            del self._of[name]

    def names(self) -> list[str]:
        """Return the names of the models that can be used; of all models if none can."""
        usable = {version.found.manifest.name for version in self if version.is_usable}
        return sorted(usable or self._of)

    def default(self, name: str) -> Version | None:
        """Return the highest version that is offered."""
        return next((version for version in self.of(name) if version.standing is Standing.OFFERED), None)

    def choose(self, wanted: str, digest: str) -> Version:
        """Return the version that a request means.

        Args:
            wanted: NAME, NAME@VERSION, or "" for the default.
            digest: of the bundle with which the text began; "" for a new text.

        Raises:
            ModelNotFound, InvalidField, ModelUnusable
        """
        name, at, number = (wanted or self._default_name(digest)).partition("@")
        known = [version for version in self.of(name) if not at or version.found.manifest.version == number]
        if not known:
            others = [f"{name}@{other.found.manifest.version}" for other in self.of(name)]
            raise ModelNotFound(wanted, others or self.names())
        usable = [version for version in known if version.is_usable]
        if not usable:
            raise known[0].unusable()
        same = [version for version in usable if digest and version.found.digest == digest]
        return (same or [version for version in usable if at or version.standing is Standing.OFFERED] or usable)[0]

    def server_default(self) -> Version | None:
        """Return the version that a new text's request means which names no model."""
        with suppress(ModelNotFound, InvalidField, ModelUnusable):
            return self.choose("", "")
        return None

    def _default_name(self, digest: str) -> str:
        """Return the name that a request means which has none: that of its text's bundle, or the default."""
        begun = [version.found.manifest.name for version in self if digest and version.found.digest == digest]
        if begun:
            return begun[0]
        names = self.names()
        if not names:
            raise ModelNotFound("", [])
        if not self._default:
            return max(names, key=self._modified_at)  # of equally old ones the first by name
        if not self.of(self._default):
            reason = f"is empty, and {self._default!r} (--default) is not served now; name a model (--model): "
            raise InvalidField("model", f"{reason}served are {join_names(names)}")
        return self._default

    def _modified_at(self, name: str) -> int:
        return (self.default(name) or self.of(name)[0]).found.modified_at
