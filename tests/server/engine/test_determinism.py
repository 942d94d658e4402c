"""A text depends on its own request: not on the others, not on when it came, how it was cut or how it was read."""

from dataclasses import dataclass, replace
from functools import cache

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bundle.manifest import ON_DEVICE, Manifest, Precision
from models.training.checkpoint import Trained
from protos import charstream_pb2 as pb
from server.engine.messages import Reason, Sampling
from server.engine.scheduler import LONG_PROMPT
from tests.server.engine_driver import EngineDriver, Text, WatchedRunner, generation
from tests.server.reference import assert_is_reference

Files = tuple[Manifest, dict[str, bytes]]
# Beginnings of the same lines, so that prompts repeat and go on from each other.
LINES = ("To be, or not to be, that is the question:\n" * 10, "the quick brown fox jumps over the lazy dog. " * 9)
LIMITS = ({"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.2}, {"top_k": 20, "top_p": 0.9, "min_p": 0.01})
# No reader can take the beginning of a stop string: no window here is smaller.
LONGEST_STOP = 3
# An example that fails is not made smaller: that takes minutes, or for ever where a text does not end.
MIX = settings(
    deadline=None,
    max_examples=20,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True)
class Asked:
    """What decides a text."""

    prompt: str
    max_chars: int
    seed: int
    sampling: Sampling
    stop: tuple[str, ...]


@dataclass(frozen=True)
class Circumstances:
    """What must not decide it.

    Attributes:
        at: the run before which it comes.
        pause: runs that its reader waits before it takes what came.
        cancel: runs after `at` until nobody wants it any more.
        leave: deliveries after which its reader leaves.
    """

    at: int
    window: int
    pause: int
    max_delay: float
    cancel: int | None
    leave: int | None


@st.composite
def prompts(draw: st.DrawFn) -> str:
    often = st.sampled_from([0, 1, LONG_PROMPT - 1, LONG_PROMPT, 100, 300])
    return draw(st.sampled_from(LINES))[: draw(st.one_of(often, often, st.integers(0, 400)))]


SAMPLINGS = st.builds(
    lambda temperature, limits: Sampling(temperature, **limits),
    st.sampled_from([0.0, 0.3, 1.0, 1.5]),
    st.one_of(st.just({}), st.sampled_from(LIMITS)),
)
REQUESTS = st.builds(
    Asked,
    prompts(),
    st.one_of(st.integers(1, 12), st.integers(60, 250)),
    st.sampled_from([0, 1, 2, 2**64 - 1]),
    SAMPLINGS,
    st.just(()),
)
# Where in its text a stop string begins, and how long it is.
STOPS = st.one_of(st.none(), st.tuples(st.integers(0, 60), st.integers(1, LONGEST_STOP)))
CIRCUMSTANCES = st.builds(
    Circumstances,
    st.one_of(st.integers(0, 6), st.integers(0, 6), st.integers(0, 60)),
    st.sampled_from([LONGEST_STOP, 4, 8, 40, 4096]),
    st.integers(0, 3),
    st.sampled_from([0.0005, 0.005, 1.0]),
    st.sampled_from([None] * 7 + [2, 10, 30]),
    st.sampled_from([None] * 8 + [1, 3]),
)
ENGINES = st.fixed_dictionaries(
    {
        "max_rows": st.sampled_from([1, 2, 3, 5, 8, 8]),
        "max_batch": st.sampled_from([1, 2, 3, 8, 8]),
        "chunk_delay": st.sampled_from([0.002, 0.005, 0.02]),
        "prefix_bytes": st.sampled_from([0, 5_000, 1_000_000, 1_000_000]),
        "late": st.sampled_from([0, 0, 1, 3]),
    }
)


class Alone:
    """Texts of a model, each from an engine that never had another request."""

    def __init__(self, files: Files, precision: Precision) -> None:
        self.manifest, self.runner = files[0], WatchedRunner(*files, precision)
        self.text = cache(self._text)

    def ask(self, driver: EngineDriver, asked: Asked, how: Circumstances | None = None) -> Text:
        wanted = generation(
            self.manifest,
            asked.prompt,
            asked.max_chars,
            seed=asked.seed,
            sampling=asked.sampling,
            stop=asked.stop,
            max_delay=how.max_delay if how else 1.0,
        )
        if not how:
            return driver.ask(wanted)
        return driver.ask(wanted, window=how.window, at=how.at, pause=how.pause, leave=how.leave)

    def with_stop(self, asked: Asked, place: tuple[int, int] | None) -> Asked:
        """The request with a stop string out of its own text, and one that hardly comes."""
        if not place:
            return asked
        begin, length = place
        return replace(asked, stop=("\n\n\n", self.text(asked)[0][begin : begin + length] or "~"))

    def _text(self, asked: Asked) -> tuple[str, Reason, str]:
        with EngineDriver(self.runner, self.manifest, max_rows=1, max_batch=1) as driver:
            text = self.ask(driver, asked)
            driver.finish()
        assert text.finish
        return str(text), text.finish.reason, text.finish.stop


@pytest.fixture(scope="module", params=["fp32", "int8", "fp32-cuda"])
def alone(request: pytest.FixtureRequest, tiny_files: Files, device_files: Files) -> Alone:
    return Alone(device_files if request.param in ON_DEVICE else tiny_files, request.param)


@pytest.fixture(scope="module")
def on_host(device_files: Files) -> Alone:
    return Alone(device_files, "fp32")


@pytest.fixture(scope="module")
def on_device(device_files: Files) -> Alone:
    return Alone(device_files, "fp32-cuda")


@MIX
@given(drawn=st.lists(st.tuples(REQUESTS, STOPS, CIRCUMSTANCES), min_size=1, max_size=12), engine=ENGINES)
def test_a_text_is_the_same_whatever_happens_around_it(
    alone: Alone, drawn: list[tuple[Asked, tuple[int, int] | None, Circumstances]], engine: dict[str, float]
) -> None:
    mix = [(alone.with_stop(asked, place), how) for asked, place, how in drawn]
    with EngineDriver(alone.runner, alone.manifest, **engine) as driver:  # type: ignore[arg-type]
        texts = [alone.ask(driver, asked, how) for asked, how in mix]
        for text, (_, how) in zip(texts, mix, strict=True):
            if how.cancel:
                driver.cancel(text, at=how.at + how.cancel)
        driver.finish()
    for text, (asked, _) in zip(texts, mix, strict=True):
        expected, reason, stop = alone.text(asked)
        if text.finish:
            assert (str(text), text.finish.reason, text.finish.stop) == (expected, reason, stop)
        else:
            assert expected.startswith(str(text))


@MIX
@given(drawn=st.lists(REQUESTS, min_size=1, max_size=8))
def test_a_device_gives_the_texts_of_the_host(on_host: Alone, on_device: Alone, drawn: list[Asked]) -> None:
    """Where their kernels are the same, as on the CPU."""
    with EngineDriver(on_device.runner, on_device.manifest, max_rows=8, max_batch=3) as driver:
        texts = [on_device.ask(driver, asked) for asked in drawn]
        driver.finish()
    assert [str(text) for text in texts] == [on_host.text(asked)[0] for asked in drawn]


def test_a_text_without_limits_is_the_same_in_both_graphs(alone: Alone) -> None:
    """Whoever shares a batch with limited texts gets what the other graph gives without them."""
    plain = [
        Asked(line[:chars], 300, seed, Sampling(temperature), ())
        for seed, (line, chars, temperature) in enumerate(
            [(LINES[0], 0, 0.0), (LINES[0], 10, 0.3), (LINES[1], 40, 1.0), (LINES[1], 200, 1.5)]
        )
    ]
    limited = [Asked("", 400, seed, Sampling(1.0, **limits), ()) for seed, limits in enumerate(LIMITS)]  # type: ignore[arg-type]
    expected = [alone.text(asked)[0] for asked in plain]
    assert not any(run.full for run in alone.runner.runs), "alone they need no limits"
    with EngineDriver(alone.runner, alone.manifest) as driver:
        for asked in limited:
            alone.ask(driver, asked)
        texts = [alone.ask(driver, asked) for asked in plain]
        driver.finish()
    assert all(run.full for run in alone.runner.runs if run.rows > len(plain) and not run.is_forced)
    assert any(run.full and run.rows == 8 for run in alone.runner.runs)
    assert [str(text) for text in texts] == expected


@pytest.mark.parametrize("precision", ["fp32", "fp32-cuda"])
def test_float32_texts_are_those_of_torch(tiny: Trained, device_files: Files, precision: Precision) -> None:
    """Mixed, cut and interrupted; on the host long prompts are read apart, and the second half finds them read."""
    alone = Alone(device_files, precision)
    asked = [
        Asked(LINES[n % 2][:chars], 150, n, Sampling(temperature), ())
        for n, (chars, temperature) in enumerate(
            [(0, 1.0), (LONG_PROMPT - 1, 0.0), (LONG_PROMPT, 1.0), (400, 0.3), (1, 1.5), (250, 1.0)] * 2
        )
    ]
    with EngineDriver(alone.runner, alone.manifest, max_rows=4, max_batch=3, prefix_bytes=1_000_000) as driver:
        texts = [
            alone.ask(driver, one, Circumstances(n, (5, 64, 4096)[n % 3], n % 2, 1.0, None, None))
            for n, one in enumerate(asked)
        ]
        driver.finish()
    for one, text in zip(asked, texts, strict=True):
        sampling = pb.Sampling(temperature=one.sampling.temperature)
        request = pb.GenerateRequest(prompt=one.prompt, max_chars=one.max_chars, seed=one.seed, sampling=sampling)
        assert_is_reference(tiny, request, str(text))
