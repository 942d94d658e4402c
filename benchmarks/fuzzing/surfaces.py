"""All surfaces by name."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fuzzing.bundles import bundle_surfaces
from benchmarks.fuzzing.configuration import configuration_surface
from benchmarks.fuzzing.requests import request_surfaces
from benchmarks.fuzzing.surface import Surface
from bundle.read import read_bundle

__all__ = ["CONNECTED", "NAMES", "opened"]

CONNECTED = ("generate", "score", "list_models", "get_model", "tokens", "signed_tokens")
NAMES = (*CONNECTED, "manifests", "graphs", "configuration")


@contextmanager
def opened(name: str, bundle: Path) -> Iterator[Surface]:
    """The surface of that name, fed from what is in the bundle."""
    if name in CONNECTED:
        yield _named(name, request_surfaces(read_bundle(bundle).manifest))
    elif name == "configuration":
        with tempfile.TemporaryDirectory() as folder:
            yield configuration_surface(Path(folder))
    else:
        with bundle_surfaces(bundle) as surfaces:
            yield _named(name, surfaces)


def _named(name: str, surfaces: "list[Surface] | tuple[Surface, ...]") -> Surface:
    return next(surface for surface in surfaces if surface.name == name)
