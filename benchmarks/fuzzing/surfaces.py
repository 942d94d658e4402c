"""All surfaces by name."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.fuzzing.bundles import bundle_surfaces
from benchmarks.fuzzing.configuration import configuration_surface
from benchmarks.fuzzing.requests import request_surfaces
from benchmarks.fuzzing.surface import Surface
from bundle.read import read_bundle

__all__ = ["CONNECTED", "NAMES", "open_surface"]

CONNECTED = ("generate", "score", "list_models", "get_model", "tokens", "signed_tokens")
NAMES = (*CONNECTED, "manifests", "graphs", "configuration")


@contextmanager
def open_surface(name: str, bundle: Path) -> Iterator[Surface]:
    """Yield the surface of that name, whose seeds come from the bundle."""
    with ExitStack() as stack:
        surfaces: Sequence[Surface]
        if name in CONNECTED:
            surfaces = request_surfaces(read_bundle(bundle).manifest)
        elif name == "configuration":
            surfaces = [configuration_surface(Path(stack.enter_context(tempfile.TemporaryDirectory())))]
        else:
            surfaces = stack.enter_context(bundle_surfaces(bundle))
        yield next(surface for surface in surfaces if surface.name == name)
