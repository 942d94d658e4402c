"""No bytes that others make do more than what the documentation says: every surface, in this process."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.fuzzing.bundles import bundle_surfaces
from benchmarks.fuzzing.configuration import configuration_surface
from benchmarks.fuzzing.requests import request_surfaces
from benchmarks.fuzzing.surface import Surface
from bundle.manifest import Manifest
from protos import charstream_pb2 as pb
from server.service.token_pb2 import TextState
from tests.fuzz.inputs import LIGHT, changed, messages

Files = tuple[Manifest, dict[str, bytes]]
MESSAGES: dict[str, type[Message]] = {
    "generate": pb.GenerateRequest,
    "score": pb.ScoreRequest,
    "get_model": pb.GetModelRequest,
    "list_models": pb.ListModelsRequest,
    "signed_tokens": TextState,
}


@pytest.fixture(scope="module")
def surfaces(
    tiny_files: Files, bundles: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Surface]]:
    with bundle_surfaces(bundles / "tiny") as of_files:
        configuration = configuration_surface(tmp_path_factory.mktemp("settings"))
        found = (*request_surfaces(tiny_files[0]), *of_files, configuration)
        yield {surface.name: surface for surface in found}


def outcomes(surface: Surface, inputs: st.SearchStrategy[bytes], most: int) -> Counter[str]:
    """What became of so many inputs; fails with the smallest that led to a fault."""
    found: Counter[str] = Counter()

    @settings(LIGHT, max_examples=most)
    @given(inputs)
    @example(b"")
    def take(data: bytes) -> None:
        found[surface.take(data)] += 1

    take()
    return found


@pytest.mark.parametrize("name", [*MESSAGES, "tokens"])
def test_requests_and_tokens_are_served_or_refused(surfaces: dict[str, Surface], name: str) -> None:
    inputs = changed(surfaces[name])
    if name in MESSAGES:
        inputs |= messages(MESSAGES[name]).map(lambda message: message.SerializeToString(deterministic=True))
    assert {"OK", "INVALID_ARGUMENT"} <= set(outcomes(surfaces[name], inputs, most=400))


@pytest.mark.parametrize(("name", "most"), [("configuration", 300), ("manifests", 150), ("graphs", 80)])
def test_files_are_taken_or_refused_in_one_line(surfaces: dict[str, Surface], name: str, most: int) -> None:
    found = outcomes(surfaces[name], changed(surfaces[name]), most)
    assert {"OK", "refused"} <= set(found), "both sides must be reached"
