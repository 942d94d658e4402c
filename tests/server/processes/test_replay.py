"""A text whose engines die at any output goes on in others as if nothing had been: characters, scores, end, places."""

import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.manifest import Manifest
from bundle.vocabulary import Vocabulary
from server.engine.engine import Engine
from server.engine.messages import (
    Begun,
    Finish,
    Grant,
    Handled,
    Output,
    Reason,
    Request,
    RowState,
    Sampling,
    Scores,
    Snapshot,
    StopRule,
)
from server.processes.placement import Placement
from server.runtime.host_runner import Runner
from server.runtime.host_states import HostStore

SYMBOLS, HIDDEN, PRIME = "abcdefgh", 2, 9973
UNBOUNDED = 1 << 30
Array = NDArray[Any]
MANIFEST = cast(
    Manifest,
    SimpleNamespace(
        name="played",
        symbols=SYMBOLS,
        vocabulary=Vocabulary(SYMBOLS),
        start_text="a",
        model=SimpleNamespace(hidden=HIDDEN, state_names=("h",)),
    ),
)


class PlayedRunner:
    """Graphs without a model: an outcome depends on all that came before, and on its random number."""

    def decode(self, before: list[Array], loop: tuple[Array, ...], tokens: Array, after: list[Array]) -> None:
        self.full(before, loop, (), tokens, np.empty((*tokens.shape, len(SYMBOLS))), after)

    def full(
        self, before: list[Array], loop: tuple[Array, ...], _: object, tokens: Array, scores: Array, after: list[Array]
    ) -> None:
        (token, state), (forced, uniform, _temperature) = (array.copy() for array in before), loop
        for step in range(len(forced)):
            state = (state * 31 + token[:, None] + 7) % PRIME
            scores[step] = -((state[:, :1] + 1) * np.arange(3, 3 + len(SYMBOLS)) % 101)
            drawn = (uniform[step] * 3 + state[:, 0]).astype(np.int64) % len(SYMBOLS)
            tokens[step] = token = np.where(forced[step] < 0, drawn, forced[step])
        after[0][:], after[1][:] = token, state


class Hand:
    """An engine without a thread: it does a tick when it is told to."""

    def __init__(self, rng: random.Random, prefix_bytes: int) -> None:
        self._posted, self._rng = list[list[Output]](), rng
        self.engine = Engine(
            HostStore(cast(Runner, PlayedRunner()), MANIFEST, 3, 3),
            MANIFEST,
            chunk_delay=0.02,
            prefix_bytes=prefix_bytes,
            max_wait=100,
            deliver=self._posted.append,
            failed=lambda error: None,
        )
        seconds = rng.choice([2e-4, 5e-4, 1e-3, 2e-3])
        self.engine._scheduler.step_seconds = lambda rows, full: seconds * rng.choice([1, 2, 4])

    def tick(self) -> list[Output]:
        """Return the outputs that are posted now; of the text 0 alone."""
        engine, self._posted[:] = self.engine, []
        if self._rng.random() < 0.5:
            engine.submit(Handled(1, 0.0))
        if engine._scheduler.idle and engine._commands.empty():
            engine._backlog.post()
        else:
            engine._take_commands()
            engine._tick()
        return [output for outputs in self._posted for output in outputs if output.stream == 0]


class Reading:
    """All that came of a text, and the places in it where snapshots were."""

    def __init__(self) -> None:
        self.text, self.finish, self.places = "", cast(Finish, None), list[tuple[int, Snapshot]]()
        self._scores = list[Scores]()

    def take(self, output: Output) -> None:
        assert not self.finish, "an output came after the last one"
        self.text, self.finish = self.text + output.text, cast(Finish, output.finish)
        if output.scores:
            self._scores.append(output.scores)
        if output.snapshot:
            self.places.append((len(self.text), output.snapshot))

    @property
    def scores(self) -> list[list[float]]:
        scores = Scores.join(self._scores)
        return [array.tolist() for array in (scores.chosen, scores.best, scores.best_logprobs)] if scores else []


def read(request: Request, rng: random.Random, lives: Sequence[int] = (), conclude: int = -1) -> Reading:
    """Read a text whose engines do so many ticks, and then one that lives on; end it after `conclude` characters."""
    reading, owed = Reading(), 0
    placement = Placement(request, credit=request.window)
    for number, ticks in enumerate([*lives, 1 << 20]):
        hand = Hand(rng, rng.choice([0, 10**6]))
        if rng.random() < 0.3:
            other = Request(MANIFEST.vocabulary.encode("abc" * 20), 60, 50, Sampling(), 5, stream=1, window=UNBOUNDED)
            hand.engine.submit(other)
        if placement.conclusion:
            reading.take(placement.end(placement.conclusion, MANIFEST.vocabulary, RowState.at_start(MANIFEST)))
            return reading
        submitted = placement.replay(MANIFEST.vocabulary) if number else request
        hand.engine.submit(replace(submitted, stream=0))
        for tick in range(2000):
            outputs = hand.tick()
            if tick >= ticks:  # some of the last outputs don't arrive any more
                outputs = outputs[: rng.randrange(len(outputs) + 1)]
            for output in outputs:
                placement.note(output)
                finish = output.finish and placement.finish(output.finish)
                reading.take(replace(output, finish=finish))
                owed += len(output.text)
            if reading.finish:
                return reading
            if tick >= ticks:
                break
            if owed and rng.random() < 0.5:
                placement.credit += owed
                hand.engine.submit(Grant(0, owed))
                owed = 0
        if 0 <= conclude <= len(reading.text):
            placement.conclusion = Reason.DEADLINE
    raise AssertionError(f"it stands still after {reading.text!r}")


def some_request(rng: random.Random) -> Request:
    """A request of any kind, as the service makes them."""

    def some_text(*sizes: int) -> str:
        return "".join(rng.choices(SYMBOLS, k=rng.choice(sizes)))

    prompt, received = some_text(0, 1, 5, 31, 40, 90), some_text(0, 0, 1, 7, 50)
    echo, ids = rng.random() < 0.4, MANIFEST.vocabulary.encode(prompt + received)
    echoed = 0 if not echo or received else rng.randrange(len(prompt) + 1)  # characters of the prompt to be sent
    sent = len(prompt) - echoed + len(received) if echo else len(received)
    request = Request(
        ids,
        len(ids) - echoed,
        rng.choice([1, 5, 30, 100, 300]),
        Sampling(top_k=rng.choice([0, 0, 3])),
        rng.randrange(1000),
        continuation=rng.choice([0, 2]),
        begun=Begun(received, sent, (prompt + received)[-3:]),
        alternatives=rng.choice([None, None, 0, 3]),
        checkpoint_chars=rng.choice([0, 0, 3, 20, 64]),
        snapshot=rng.random() < 0.5,
        state_chars=rng.choice([1, 4, 17, 60]),
        submitted=time.monotonic(),
        stream=0,
        window=rng.choice([UNBOUNDED, 40, 300]),
    )
    if rng.random() < 0.1:  # a text to score
        silent = len(prompt) // 2
        return replace(request, silent=silent, begun=Begun(), max_chars=0, alternatives=2, checkpoint_chars=0)
    return request


def with_stops(request: Request, text: str, rng: random.Random) -> Request:
    """Let stop strings occur in the text, or nearly."""
    strings = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        begin = rng.randrange(len(text))
        string = text[begin : begin + rng.choice([1, 2, 3, 8, 20, 60])]
        strings.append(string if rng.random() < 0.5 else string[:-1] + rng.choice(SYMBOLS))
    tail = rng.choice(["", text[:10], strings[0][:-1]])
    skip = rng.choice([0, 0, 5, 40, 120])
    return replace(request, stops=StopRule(tuple(strings), rng.random() < 0.5, skip, tail))


def end_of(finish: Finish) -> list[object]:
    return [finish.reason, finish.stop, finish.stop_chars_sent, finish.generated_chars, finish.position]


def check_places(request: Request, reading: Reading, rng: random.Random) -> None:
    """Each place says where it is, and one of them is gone on from."""
    echoed, begun = len(request.forced) - request.silent, request.begun
    for chars, place in reading.places:
        assert place.text_chars == begun.sent_chars + chars
        assert place.generated_chars == begun.generated_chars + chars - echoed
    counted = [begun.generated_chars, *(place.generated_chars for _, place in reading.places)]
    checkpoints = counted[:-1] if request.snapshot else counted
    if request.checkpoint_chars:
        assert all(b - a >= request.checkpoint_chars for a, b in itertools.pairwise(checkpoints))
    if reading.places:
        chars, place = rng.choice(reading.places)
        rest = replace(
            request.after(place), max_chars=max(1, len(reading.text) - chars), stops=StopRule(), alternatives=None
        )
        rest = replace(rest, snapshot=False, checkpoint_chars=0, window=UNBOUNDED)
        again = read(rest, rng).text
        assert again.startswith(reading.text[chars:])


@pytest.mark.parametrize("case", range(60))
def test_deaths_change_nothing(case: int) -> None:
    rng = random.Random(case)
    request = some_request(rng)
    text = read(replace(request, window=UNBOUNDED), rng).text
    generated = text[len(request.forced) - request.silent :]
    if generated and rng.random() < 0.6:
        request = with_stops(request, generated, rng)
    expected = read(replace(request, state_chars=0, window=UNBOUNDED), rng)
    lives = [rng.randrange(rng.choice([1, 2, 6, 20])) for _ in range(rng.choice([1, 2, 5, 12]))]
    found = read(request, rng, lives)
    assert found.text == expected.text
    assert end_of(found.finish) == end_of(expected.finish)
    assert found.scores == expected.scores
    check_places(request, found, rng)
    if request.snapshot:
        (_, last), (_, wanted) = found.places[-1], expected.places[-1]
        assert (last.tail, last.recent, last.position) == (wanted.tail, wanted.recent, wanted.position)


@pytest.mark.parametrize("case", range(20))
def test_a_text_that_ends_while_no_engine_has_it_ends_where_its_reader_is(case: int) -> None:
    rng = random.Random(case)
    request = replace(some_request(rng), max_chars=300, snapshot=True, checkpoint_chars=0)
    whole = read(replace(request, window=UNBOUNDED), rng)
    found = read(request, rng, [rng.randrange(3, 8) for _ in range(3)], conclude=rng.randrange(1, 200))
    assert whole.text.startswith(found.text)
    if found.finish.reason is Reason.LENGTH:  # no engine died after so many characters
        assert found.text == whole.text
        return
    assert found.finish.reason is Reason.DEADLINE
    if len(found.text) > len(request.forced) - request.silent:
        assert found.finish.position == len(request.forced) + found.finish.generated_chars - len(request.begun.received)
        check_places(request, found, rng)
        assert found.places[-1][0] == len(found.text)
