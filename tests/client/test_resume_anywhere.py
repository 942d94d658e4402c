"""Wherever a text breaks, how often, and wherever its checkpoints are: it comes whole, each character once."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client.reading import both, read
from tests.client.replica import Fault, Replica, expected_text, logprob_at
from tests.client.scripted import serving

WAYS = ["unavailable", "cancelled", "no finish", "drained", "overloaded", "token refused"]

# Before anything came, a failure at every address is final: the first call always sends something.
first_fault = st.builds(Fault, st.sampled_from(WAYS[:-1]), st.integers(1, 25))
more_faults = st.lists(st.builds(Fault, st.sampled_from(WAYS), st.integers(0, 25)), max_size=6)
options = st.fixed_dictionaries(
    {"max_chars": st.integers(1, 70), "checkpoint_chars": st.integers(0, 30), "echo": st.booleans()},
    optional={
        "logprobs": st.integers(0, 2),
        "stop": st.lists(st.text("abcdefgh", min_size=1, max_size=2), max_size=2),
        "seed": st.integers(0, 2**64 - 1),
        "continuation": st.integers(0, 3),
    },
)


@pytest.fixture(scope="module")
def replica() -> Iterator[tuple[Replica, list[str]]]:
    """Two addresses whose calls take the faults from one list."""
    shared = Replica()
    with serving(shared.generate) as one, serving(shared.generate) as two:
        yield shared, [one.address, two.address]


@both
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.builds(lambda first, more: [first, *more], first_fault, more_faults),
    chunk=st.integers(1, 9),
    prompt=st.sampled_from(["", "R", "ROMEO:"]),
    options=options,
)
def test_each_character_comes_once(
    replica: tuple[Replica, list[str]],
    kind: str,
    faults: list[Fault],
    chunk: int,
    prompt: str,
    options: dict[str, Any],
) -> None:
    server, addresses = replica
    server.faults, server.chunk, server.requests = list(faults), chunk, []
    outcome = read(kind, addresses, "stream", prompt, **options)
    assert outcome.error is None

    seed = server.requests[0].seed
    echo = prompt if options["echo"] else ""
    generated = _until_stop(
        expected_text(options["max_chars"], seed, prompt, options.get("continuation", 0)), options.get("stop", [])
    )
    assert "".join(outcome.items) == outcome.stream.text == echo + generated
    finish = outcome.stream.finish
    assert (finish.prompt_chars, finish.generated_chars) == (len(prompt), len(generated))
    assert (finish.seed, finish.position) == (seed, len(prompt) + len(generated))
    if "logprobs" in options:
        begin = len(prompt) - len(echo) + 1
        assert outcome.stream.logprobs == [logprob_at(begin + i) for i in range(len(echo + generated))]


def _until_stop(text: str, stops: list[str]) -> str:
    return text[: min([text.index(stop) for stop in stops if stop in text], default=len(text))]
