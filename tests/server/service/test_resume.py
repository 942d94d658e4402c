"""A text that was stopped, broken off and gone on with, in any way and any number of times, is the text of one call."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from server.engine.messages import Repeat
from tests.conftest import ready, start_server, stop
from tests.server.engine.test_repeats import end_by_definition
from tests.server.engine.test_stop_strings import by_character

LINE = "To be, or not to be, that is the question:\n" * 4
SAMPLINGS = (
    pb.Sampling(),
    pb.Sampling(temperature=0),
    pb.Sampling(temperature=0.5, top_k=20, min_p=0.01),
    pb.Sampling(top_p=0.9, banned="z!", bias=pb.Bias(of={"a": 2.5, "\n": -1})),
)
FEW = settings(
    deadline=None,
    max_examples=50,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True)
class Stop:
    """A stop string that is cut out of the text at a percentage of it; `missed`: its last character is changed."""

    percent: int
    chars: int
    missed: bool

    def begin(self, text_chars: int) -> int:
        return text_chars * self.percent // 100

    def of(self, text: str) -> str:
        begin = self.begin(len(text))
        found = text[begin : begin + self.chars] or "~"
        return found[:-1] + chr(ord(found[-1]) ^ 1) if self.missed and found[-1] > " " else found


@dataclass(frozen=True)
class Wanted:
    """A text. `skips`: min_chars lies inside the first stop string."""

    prompt: str
    max_chars: int
    seed: int
    continuation: int
    sampling: pb.Sampling
    stops: Sequence[Stop]
    include_stop: bool
    min_chars: int
    skips: bool
    repeat: Repeat | None
    max_delay: float


@dataclass(frozen=True)
class Break:
    """How one call ends before the text does: after about so many of its characters; `inside` the first stop string."""

    kind: str
    chars: int
    inside: bool


SELDOM = st.sampled_from([False, False, False, True])
WANTED = st.builds(
    Wanted,
    st.integers(0, 90).map(lambda chars: LINE[:chars]),
    st.integers(1, 300).map(lambda chars: 301 - chars),
    st.sampled_from([0, 1, 2**64 - 1]),
    st.sampled_from([0, 0, 3]),
    st.sampled_from(SAMPLINGS),
    st.lists(
        st.builds(Stop, st.integers(0, 95), st.one_of(st.integers(2, 12), st.integers(2, 128)), SELDOM),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
    st.sampled_from([0, 0, 0, 5, 100]),
    SELDOM,
    # The text has double letters, and loops where it is greedy; the last two look back farther than a stop string.
    st.sampled_from([None, None, Repeat(7, 2), Repeat(5, 3), Repeat(90, 3), Repeat(150, 2, min_period=60)]),
    st.sampled_from([0.005, 0.02, 0.05]),
)
BREAKS = st.lists(
    st.builds(Break, st.sampled_from(["replay", "length", "checkpoint", "stop"]), st.integers(1, 120), st.booleans()),
    min_size=1,
    max_size=6,
)


@dataclass
class Going:
    """A text that is fetched piece by piece.

    Attributes:
        base: the request that the next call repeats.
        unstopped: what it would give without stop strings.
        done: generated characters before the base's beginning.
        text: all that came.
    """

    stub: rpc.TextGenerationStub
    base: pb.GenerateRequest
    unstopped: str
    done: int = 0
    text: str = ""
    finish: pb.Finish | None = None

    @property
    def left(self) -> int:
        return self.base.max_chars - (len(self.text) - self.done)

    def call(self, chars: int | None = None, **changes: object) -> pb.GenerateResponse:
        """One call; it is left when about so many characters came. Returns the newest message with a token."""
        request = pb.GenerateRequest()
        request.CopyFrom(self.base)
        request.received = self.text[self.done :]
        request.MergeFrom(pb.GenerateRequest(**changes))  # type: ignore[arg-type]
        call, came, place = self.stub.Generate(request), 0, pb.GenerateResponse()
        for message in call:
            self.text += message.text
            came += len(message.text)
            if message.HasField("checkpoint") or message.finish.resume_token:
                place = message
            if message.HasField("finish"):
                self.finish = message.finish
            elif chars is not None and came >= chars:
                call.cancel()
                break
        return place

    def replay(self, chars: int) -> None:
        self.call(chars)

    def length(self, chars: int) -> None:
        """A shorter text that ends, and a new request from its token."""
        left, most = self.left, len(self.text) - self.done + chars
        if left <= chars:
            self.call()
            return
        token = self.call(max_chars=most, min_chars=min(self.base.min_chars, most), return_token=True)
        if self.finish and self.finish.reason == pb.FINISH_REASON_LENGTH:
            self.go_on(token.finish.resume_token, len(self.text), left - chars)

    def checkpoint(self, chars: int) -> None:
        """The newest checkpoint, and what came after it."""
        old, max_chars = self.done, self.base.max_chars
        place = self.call(chars, checkpoint_chars=64).checkpoint
        if place.resume_token and not self.finish:
            self.go_on(place.resume_token, old + place.text_chars, max_chars - place.generated_chars)

    def stop(self, chars: int) -> None:
        """A call with one more stop string, out of the text that comes, and then a request without it."""
        begin = len(self.text) + 3
        more = self.unstopped[:-1][begin : begin + min(chars, 128)] or "~"
        place = self.call(stop=[more], return_token=True)
        if self.finish and self.finish.stop == more and more not in self.base.stop:
            self.go_on(place.finish.resume_token, len(self.text), self.left)

    def go_on(self, token: bytes, done: int, max_chars: int) -> None:
        """The next call begins at a token."""
        min_chars = max(0, self.base.min_chars - (done - self.done))
        self.done, self.finish = done, None
        self.base.ClearField("prompt")
        self.base.resume_token, self.base.max_chars, self.base.min_chars = token, max_chars, min_chars


@dataclass
class Mates:
    """Other texts in the same batches, for as long as the tests run."""

    stub: rpc.TextGenerationStub
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        seed = 0
        while not self.over.is_set():
            seed += 1
            sampling = SAMPLINGS[seed % len(SAMPLINGS)]
            prompt, chars = LINE[: seed * 37 % 150], 20 + seed * 53 % 300
            request = pb.GenerateRequest(prompt=prompt, max_chars=chars, seed=seed, sampling=sampling)
            for _ in self.stub.Generate(request):
                self.over.wait(0.01)


ARITHMETIC = {
    "fp32": ("--precision", "fp32"),
    "int8": ("--precision", "int8"),
    "fp32-cuda": ("--precision", "fp32-cuda", "--provider", "cpu", "--max-rows", "8", "--buckets", "3,8"),
}


@pytest.fixture(scope="module", params=ARITHMETIC)
def replicas(
    request: pytest.FixtureRequest, bundles: Path, device_bundles: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A server with mates for every text."""
    models = device_bundles if request.param == "fp32-cuda" else bundles
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("0123456789abcdef" * 2)
    process = ready(start_server(models, *ARITHMETIC[request.param], "--resume-keys", str(keys)))
    with grpc.insecure_channel(process.address) as channel:
        mates = Mates(rpc.TextGenerationStub(channel))
        threads = [threading.Thread(target=mates.run) for _ in range(3)]
        for thread in threads:
            thread.start()
        yield process.address
        mates.over.set()
        for thread in threads:
            thread.join()
    stop(process)


def chars_of(one: Break, wanted: Wanted, going: Going) -> int:
    """How many characters the call gives before it ends."""
    first = wanted.stops[0]
    inside = first.begin(wanted.max_chars) + 1 + one.chars % first.chars - len(going.text)
    return inside if one.inside and inside > 0 else one.chars


def request_of(wanted: Wanted, unstopped: str) -> pb.GenerateRequest:
    min_chars = wanted.stops[0].begin(wanted.max_chars) + 1 if wanted.skips else wanted.min_chars
    request = pb.GenerateRequest(
        prompt=wanted.prompt,
        max_chars=wanted.max_chars,
        seed=wanted.seed,
        continuation=wanted.continuation,
        sampling=wanted.sampling,
        stop=[stop.of(unstopped) for stop in wanted.stops],
        include_stop=wanted.include_stop,
        min_chars=min(min_chars, wanted.max_chars),
    )
    if wanted.repeat:
        repeat = wanted.repeat
        request.stop_on_repeat.CopyFrom(
            pb.Repeat(max_period=repeat.max_period, times=repeat.times, min_period=repeat.min_period)
        )
    request.chunking.max_delay.FromMicroseconds(int(wanted.max_delay * 1e6))
    return request


def cut(text: str, request: pb.GenerateRequest, repeat: Repeat | None) -> tuple[str, str, int]:
    """The text, the stop string and the period of the repetition that a search after every character comes to."""
    head, rest = text[: request.min_chars], text[request.min_chars :]
    end, period = end_by_definition(rest, repeat) if repeat else (-1, 0)
    before, found = by_character(rest[:end] if period else rest, list(request.stop))
    return head + before + (found if request.include_stop else ""), found, 0 if found else period


@FEW
@given(wanted=WANTED, breaks=BREAKS)
def test_any_way_of_going_on_gives_the_text_of_one_call(replicas: str, wanted: Wanted, breaks: list[Break]) -> None:
    with grpc.insecure_channel(replicas) as channel:
        stub = rpc.TextGenerationStub(channel)
        plain = request_of(wanted, "")
        plain.ClearField("stop")
        plain.ClearField("stop_on_repeat")
        unstopped = "".join(message.text for message in stub.Generate(plain))
        assert len(unstopped) == wanted.max_chars
        request = request_of(wanted, unstopped)
        expected, found, period = cut(unstopped, request, wanted.repeat)
        going = Going(stub, request, unstopped)
        ways: dict[str, Callable[[int], None]] = {
            way.__name__: way for way in (going.replay, going.length, going.checkpoint, going.stop)
        }
        for one in breaks:
            if not going.finish:
                ways[one.kind](chars_of(one, wanted, going))
        if not going.finish:
            going.call()
    assert going.finish
    text = going.text[: len(going.text) - going.finish.stop_chars_sent]
    assert (text, going.finish.stop, going.finish.repeat_period) == (expected, found, period)
    assert going.finish.generated_chars == len(going.text) - going.done
    assert going.finish.position == len(wanted.prompt) + len(going.text)
