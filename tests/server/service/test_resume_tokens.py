"""Resume tokens: what was not signed here is refused with the documented status, whatever it is."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from bundle.manifest import Manifest
from bundle.write import write_bundle
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from server.access.reloading import FileError
from server.service.resume_tokens import Keys
from tests.conftest import ServerProcess, ready, start_server, stop

R = pb.GenerateRequest
Files = tuple[Manifest, dict[str, bytes]]
OLD, NEW, FOREIGN = b"old" * 11, b"new" * 11, b"foreign" * 5
FORGED = 8_000
AT_ONCE = 100
INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


@dataclass(frozen=True)
class Replicas:
    """Servers by their keys. `rotated` signs with a new one and knows the old one; `other` is another version."""

    old: ServerProcess
    rotated: ServerProcess
    new: ServerProcess
    other: ServerProcess


@pytest.fixture(scope="module")
def replicas(bundles: Path, tiny_files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "old").write_bytes(OLD)
    (folder / "rotated").write_bytes(b"# the first one signs\n" + NEW + b"\n\n" + OLD + b"\n")
    (folder / "new").write_bytes(NEW)
    manifest, files = tiny_files
    write_bundle(folder / "bundles" / "tiny", manifest.model_copy(update={"version": "2"}), files)
    flags = ("--precision", "fp32", "--resume-keys")
    with ExitStack() as stack:
        started = [start_server(bundles, *flags, str(folder / name)) for name in ("old", "rotated", "new")]
        started.append(start_server(folder / "bundles", *flags, str(folder / "old")))
        for process in started:
            stack.callback(stop, process)
        yield Replicas(*map(ready, started))


def generate(server: ServerProcess, **fields: object) -> list[pb.GenerateResponse]:
    with grpc.insecure_channel(server.address) as channel:
        return list(rpc.TextGenerationStub(channel).Generate(R(**fields)))  # type: ignore[arg-type]


def text_of(messages: Sequence[pb.GenerateResponse]) -> str:
    return "".join(message.text for message in messages)


@pytest.fixture(scope="module")
def token(replicas: Replicas) -> bytes:
    return generate(replicas.old, prompt="To be", seed=1, max_chars=70, return_token=True)[-1].finish.resume_token


def refusal(server: ServerProcess, token: bytes, **fields: object) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        generate(server, resume_token=token, **fields)
    return caught.value


def test_a_token_goes_on_wherever_its_key_is_known(replicas: Replicas, token: bytes) -> None:
    whole = text_of(generate(replicas.old, prompt="To be", seed=1, max_chars=200))
    for server in (replicas.old, replicas.rotated):
        assert text_of(generate(server, resume_token=token, max_chars=130)) == whole[70:]
    newer = generate(replicas.rotated, resume_token=token, max_chars=30, return_token=True)[-1].finish
    assert text_of(generate(replicas.new, resume_token=newer.resume_token, max_chars=100)) == whole[100:]
    assert newer.position == len("To be") + 100


def test_a_key_that_was_taken_out_is_not_accepted(replicas: Replicas, token: bytes) -> None:
    error = refusal(replicas.new, token)
    assert error.code() == INVALID
    assert error.details() == "resume_token: was signed with a key that this server does not know"


def test_a_token_of_another_bundle_is_refused_by_name(replicas: Replicas, token: bytes) -> None:
    error = refusal(replicas.other, token, other_numerics=True)
    assert error.code() == PRECONDITION
    assert "resume_token: the text began with digest" in error.details()


def test_requests_override_what_a_token_holds(replicas: Replicas) -> None:
    prompt = "To be, or not"
    sampled = {"seed": 5, "sampling": pb.Sampling(temperature=0.5, allowed="abc\n"), "continuation": 2}
    first = generate(replicas.old, prompt=prompt, max_chars=40, return_token=True, **sampled)
    token = first[-1].finish.resume_token
    assert set(text_of(generate(replicas.old, resume_token=token, max_chars=200))) <= set("abc\n")
    changed = generate(replicas.old, resume_token=token, max_chars=60, sampling=pb.Sampling(allowed="xyz"))
    assert set(text_of(changed)) <= set("xyz")
    greedy = generate(replicas.old, resume_token=token, max_chars=60, sampling=pb.Sampling(temperature=0))
    again = generate(replicas.old, resume_token=token, max_chars=60, sampling=pb.Sampling(temperature=0), seed=6)
    assert text_of(greedy) == text_of(again)


def test_a_conversation_goes_on_after_its_token(replicas: Replicas) -> None:
    """What follows a token is the text that all of it in one prompt leads to."""
    first = generate(replicas.old, prompt="To be, ", max_chars=50, seed=9, return_token=True)
    said = "To be, " + text_of(first)
    answer = generate(replicas.old, resume_token=first[-1].finish.resume_token, prompt="\nWho is there?", max_chars=80)
    assert text_of(answer) == text_of(generate(replicas.old, prompt=said + "\nWho is there?", max_chars=80, seed=9))
    assert answer[-1].finish.prompt_chars == len("\nWho is there?")


def damaged(token: bytes, number: int) -> tuple[str, bytes]:
    """A token that nobody signed, and of which kind it is."""
    rng = random.Random(number)
    place = rng.randrange(len(token))
    match number % 6:
        case 0:
            return "flipped", token[:place] + bytes([token[place] ^ 1 << rng.randrange(8)]) + token[place + 1 :]
        case 1:
            return "truncated", token[: max(1, place)]
        case 2:
            return "lengthened", token + rng.randbytes(rng.randrange(1, 50))
        case 3:
            return "random", rng.randbytes(rng.randrange(1, 3000))
        case 4:
            return "spliced", token[:place] + rng.randbytes(len(token) - place)
        case _:
            return "signed by another", Keys.of([FOREIGN]).seal(Keys.of([OLD]).open(token, 1 << 20))


async def test_forged_tokens_are_always_refused(replicas: Replicas, token: bytes) -> None:
    """Random damage of every kind; each answer is INVALID_ARGUMENT, and the server goes on."""
    found: Counter[tuple[str, grpc.StatusCode]] = Counter()
    numbers = iter(range(FORGED))

    async def ask(stub: rpc.TextGenerationStub) -> None:
        for number in numbers:
            kind, forged = damaged(token, number)
            try:
                async for _ in stub.Generate(R(resume_token=forged, max_chars=1)):
                    pass
                found[kind, grpc.StatusCode.OK] += 1
            except grpc.aio.AioRpcError as error:
                found[kind, error.code()] += 1

    async with grpc.aio.insecure_channel(replicas.old.address) as channel:
        stub = rpc.TextGenerationStub(channel)
        await asyncio.gather(*(ask(stub) for _ in range(AT_ONCE)))
    assert {code for _, code in found} == {INVALID}, found
    assert sum(found.values()) == FORGED
    assert len(found) == 6
    assert generate(replicas.old, resume_token=token, max_chars=1), "the untouched one is still good"
    assert "internal error" not in replicas.old.log


def test_a_token_over_the_limit_says_how_long_it_may_be(replicas: Replicas, token: bytes) -> None:
    error = refusal(replicas.old, token + bytes(1 << 20))
    assert error.code() == INVALID
    assert str(1 << 20) in error.details()


def test_a_token_of_other_numerics_needs_consent(replicas: Replicas, token: bytes) -> None:
    state = Keys.of([OLD]).open(token, 1 << 20)
    state.replica.numerics = "0" * 16
    elsewhere = Keys.of([OLD]).seal(state)
    assert refusal(replicas.old, elsewhere).code() == PRECONDITION
    ours = text_of(generate(replicas.old, resume_token=token, max_chars=50))
    assert text_of(generate(replicas.old, resume_token=elsewhere, max_chars=50, other_numerics=True)) == ours


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"", "holds no key"), (b"# none\n", "holds no key"), (b"\nshort\n", "line 2")],
)
def test_a_file_without_good_keys_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(FileError, match=words) as caught:
        Keys.read(tmp_path / "keys")
    assert str(tmp_path / "keys") in str(caught.value)


def test_a_server_without_good_keys_does_not_start(bundles: Path, tmp_path: Path) -> None:
    process = start_server(bundles, "--resume-keys", str(tmp_path / "nowhere"))
    try:
        assert process.wait(60) == 1
        process.wait_for("--resume-keys: .*nowhere: No such file or directory")
    finally:
        stop(process)


def test_stop_strings_longer_than_half_of_the_buffer_are_refused_at_start(bundles: Path) -> None:
    """What is held back and what nobody has taken yet would fill it, for ever."""
    process = start_server(bundles, "--max-stop-chars", "200", "--stream-buffer", "256")
    try:
        assert process.wait(60) == 2
        process.wait_for("--max-stop-chars must be at most half of --stream-buffer")
    finally:
        stop(process)


def test_tokens_are_small(tiny_files: Files, token: bytes) -> None:
    """The state, and hardly anything else."""
    shape = tiny_files[0].model
    assert len(token) < 4 * shape.hidden * len(shape.state_names) + 600
