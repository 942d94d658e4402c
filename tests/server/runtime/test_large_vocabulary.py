"""Models of thousands of symbols are served with the default settings, soon, and in memory that is said before."""

import re
import sys
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from bundle.manifest import Manifest
from bundle.probe import ROWS, SAMPLED, probe_inputs
from bundle.read import Bundle
from bundle.vocabulary import Vocabulary
from bundle.write import write_bundle
from export.build import build
from models.network.char_lm import CharLM, ModelConfig
from models.training.checkpoint import Trained
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.runtime.host_runner import CannotRun
from server.runtime.load import load
from server.runtime.probe import LARGE, short_inputs
from server.settings import ServerSettings
from tests.conftest import ready, start_server, stop

SYMBOLS = 6001


def test_a_large_vocabulary_is_served_with_default_settings(tiny: Trained, tmp_path: Path) -> None:
    """Its warm-up asked for more log-probabilities than a run may have."""
    vocabulary = Vocabulary("\n" + "".join(map(chr, range(0x4E00, 0x4E00 + SYMBOLS - 1))))
    torch.manual_seed(0)
    model = CharLM(ModelConfig(vocab=SYMBOLS, layers=1, hidden=8, embedding=4)).eval()
    write_bundle(
        tmp_path / "large",
        *build(
            Trained(model, vocabulary, "\n", tiny.record.model_copy(update={"prompts": ()})), "large", "1", ["fp32"]
        ),
    )
    server = start_server(tmp_path, command=("env", sys.executable, "-m", "server"))  # not forked: its memory counts
    try:
        ready(server)
        said = int(server.wait_for(r"serves large 1 .*, at most (\d+) MB,")[1])
        with grpc.insecure_channel(server.address) as channel:
            stub = pb_grpc.TextGenerationStub(channel)
            request = pb.GenerateRequest(prompt="一丁", seed=1, max_chars=50, n=16, logprobs=2)
            messages = list(stub.Generate(request))
            (model_message,) = pb_grpc.ModelsStub(channel).ListModels(pb.ListModelsRequest()).models
        assert sum(len(message.text) for message in messages) == 16 * 50
        assert set("".join(message.text for message in messages)) <= set(vocabulary.symbols)
        # Far below what all characters' log-probabilities would take, and never above what the log says, for Python
        # and the libraries some 100 MB beside.
        assert round(model_message.memory / 1e6) == said < 4 * SYMBOLS**2 / 1e6 * 2
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e3 < said + 150  # type: ignore[index]
    finally:
        stop(server)


def test_cuda_refuses_a_large_vocabulary_and_says_who_serves_it(
    device_files: tuple[Manifest, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """There each row would be sorted by itself: minutes of captures, and steps slower than the CPU's."""
    manifest, files = device_files
    large = manifest.model_copy(update={"symbols": tuple(map(chr, range(0x4E00, 0x4E00 + SYMBOLS)))})
    bundle, limit = Bundle(Path(), large, "", files), "6,001 symbols, and CUDA serves at most 4,096"
    with pytest.raises(CannotRun, match=f"--provider cuda: the bundle has {limit}: --provider cpu serves it"):
        load(bundle, ServerSettings(provider="cuda"))
    monkeypatch.setattr("server.runtime.load.has_cuda", lambda: True)
    with caplog.at_level("INFO"), suppress(CannotRun, ValueError):  # the files are of another vocabulary
        load(bundle, ServerSettings(provider="auto", max_rows=4))
    assert f"{limit}, so the CPU serves it" in caplog.text
    assert "cuda does not work here" not in caplog.text


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("vocab", [1, 96, LARGE])
def test_the_probe_of_other_vocabularies_stays(vocab: int, rows: int) -> None:
    """By its digest replicas know each other: it must not change with the version of the server."""
    for short, whole in zip(short_inputs(vocab, rows), probe_inputs(vocab, rows), strict=True):
        np.testing.assert_array_equal(short, whole)


@pytest.mark.parametrize("rows", [1, ROWS])
def test_the_probe_of_a_large_vocabulary_is_short(rows: int) -> None:
    forced, uniform = short_inputs(20_000, rows)
    assert forced.shape == uniform.shape == (max(SAMPLED, (1 << 22) // (20_000 * rows)), rows)
    assert (forced[-SAMPLED:] == -1).all()
