"""What the playground asks for beside texts: hidden units, cards and curves, the server's load, and its own files."""

import base64
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from bundle.curve import CURVE, TrainingCurve
from bundle.write import file_records, write_bundle
from models.training.checkpoint import Trained
from server.service.activations import MOST_CHARS
from tests.conftest import Files, ServerProcess, ready, start_server, stop

TEXT = "To be, or not to be"
CURVE_POINTS = TrainingCurve(training=((1, 4.5), (2, 3.5)), validation=((2, 3.25),))


@pytest.fixture(scope="module")
def served(tiny_files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serves "tiny" as it was before there were curves, and "curved", a version of it that has one."""
    folder = tmp_path_factory.mktemp("insight")
    write_bundle(folder / "models" / "tiny", *tiny_files)
    manifest, files = tiny_files
    files = {**files, CURVE: CURVE_POINTS.model_dump_json().encode()}
    curved = manifest.model_copy(update={"name": "curved", "files": file_records(files)})
    write_bundle(folder / "models" / "curved", curved, files)
    flags = ("--precision", "fp32", "--http-port", "0", "--default", "tiny", "--identity-chars", "5000")
    process = start_server(folder / "models", *flags)
    yield ready(process)
    stop(process)


@pytest.fixture(scope="module")
def web(served: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{served.web}", timeout=60) as opened:
        yield opened


def states_in_torch(tiny: Trained, text: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What torch computes: each state after each character, by name, and the log-probabilities after the last."""
    tokens = torch.from_numpy(tiny.vocabulary.encode(tiny.start_text + text))
    state, found = tiny.model.initial_state(1), dict[str, list[np.ndarray]]()
    names = tiny.model.config.shape.state_names
    with torch.no_grad():
        for token in tokens:
            logits, state = tiny.model(token.reshape(1, 1), state)
            for name, array in zip(names, state, strict=True):
                found.setdefault(name, []).append(array[0].numpy())
    stacked = {name: np.stack(arrays[1:]) for name, arrays in found.items()}
    return stacked, torch.log_softmax(logits.reshape(-1), dim=0).numpy()


def values_of(answer: dict[str, Any]) -> np.ndarray:
    levels = np.frombuffer(base64.b64decode(answer["values"]), np.int8)
    return levels.reshape(-1, answer["units"]) * answer["scale"]


@pytest.mark.parametrize("state", ["h0", "c1", None])
def test_hidden_units_are_those_of_torch(web: httpx.Client, tiny: Trained, state: str | None) -> None:
    answer = web.post("/v1/activations", json={"text": TEXT, "state": state}).json()
    states, logprobs = states_in_torch(tiny, TEXT)
    assert answer["state"] == (state or "h1")
    assert answer["states"] == ["h0", "c0", "h1", "c1"]
    assert "".join(answer["tokens"]) == TEXT
    np.testing.assert_allclose(values_of(answer), states[answer["state"]], atol=answer["scale"])
    np.testing.assert_allclose(answer["next_logprobs"], logprobs, atol=2e-3)


def test_the_last_places_alone_and_what_may_come_first(web: httpx.Client) -> None:
    whole = web.post("/v1/activations", json={"text": TEXT}).json()
    last = web.post("/v1/activations", json={"text": TEXT, "last": 3}).json()
    assert "".join(last["tokens"]) == TEXT[-3:]
    np.testing.assert_allclose(values_of(last), values_of(whole)[-3:], atol=whole["scale"])
    nothing = web.post("/v1/activations", json={"text": "", "last": 0}).json()
    assert nothing["tokens"] == []
    assert math.isclose(sum(map(math.exp, nothing["next_logprobs"])), 1, abs_tol=1e-3)


REFUSED = [
    ({}, 400, "text: is missing"),
    ({"text": "a" * (MOST_CHARS + 1)}, 400, f"allowed are {MOST_CHARS}: send its end"),
    ({"text": "é"}, 400, "is not in the vocabulary of tiny"),
    ({"text": "a", "state": "h9"}, 400, "this model has h0, c0, h1"),
    ({"text": "a", "last": -1}, 400, "last: is '-1'"),
    ({"text": "a", "model": "other"}, 404, "served are curved, tiny"),
]


@pytest.mark.parametrize(("body", "status", "says"), REFUSED, ids=[case[2][:30] for case in REFUSED])
def test_refusals_say_what_came_and_what_is_allowed(
    web: httpx.Client, body: dict[str, Any], status: int, says: str
) -> None:
    answer = web.post("/v1/activations", json=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


def test_a_card_comes_with_the_curve_if_the_bundle_has_one(web: httpx.Client, tiny_files: Files) -> None:
    card = web.get("/v1/cards/curved@1").json()
    assert card["card"] == tiny_files[1]["card.md"].decode()
    assert TrainingCurve.model_validate(card["curve"]) == CURVE_POINTS
    assert web.get("/v1/cards/tiny").json()["curve"] is None
    assert web.get("/v1/cards/other").status_code == 404


def test_the_load_is_told_at_once_or_as_it_changes(web: httpx.Client) -> None:
    web.post("/v1/completions", json={"prompt": TEXT, "max_tokens": 50})
    load = web.get("/v1/load").json()
    assert load["models"]["tiny"]["rows"] == 0
    assert load["models"]["tiny"]["generated"] >= 50
    assert (load["max_rows"], load["stage"]) == (1024, "ready")
    endless = {"max_tokens": 100_000, "stream": True}
    with web.stream("POST", "/v1/completions", json=endless) as text:
        chunks = text.iter_text()  # whose end closes the connection
        next(chunks)
        with web.stream("GET", "/v1/load?stream=true") as answer:
            events = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
            # One that is not read holds no row for long.
            assert any(json.loads(event)["texts"].get("tiny@1") == 1 for event in itertools.islice(events, 10))


def test_the_page_is_strict_and_its_files_are_sent_once(web: httpx.Client) -> None:
    page = web.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    again = web.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    names = {part.split('"')[0] for part in page.text.split('"playground/')[1:]}
    assert {"main.js", "style.css", "icon.svg"} <= names
    for name in names:
        found = web.get(f"/playground/{name}")
        assert found.headers["content-security-policy"] == policy
        assert found.headers["x-content-type-options"] == "nosniff"
    assert web.get("/playground/../../app.py").status_code == 404
    assert web.post("/").status_code == 405


def test_an_operator_can_leave_the_page_out(bundles: Path) -> None:
    process = ready(start_server(bundles, "--http-port", "0", "--no-playground", "--load", "lazy"))
    try:
        assert httpx.get(f"http://{process.web}/").status_code == 404
        assert httpx.get(f"http://{process.web}/playground/main.js").status_code == 404
        assert httpx.get(f"http://{process.web}/v1/load").status_code == 200
    finally:
        stop(process)
