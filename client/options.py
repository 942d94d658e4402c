"""The options of a text and the request that they become."""

import ast
import functools
import inspect
import itertools
import math
import secrets
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, TypedDict, TypeVar

from google.protobuf.duration_pb2 import Duration

from charstream.protos import charstream_pb2 as pb

from .results import Repeat, Replica

__all__ = [
    "GenerateOptions",
    "check_names",
    "check_range",
    "check_text",
    "chooses_checkpoints",
    "documents",
    "generate_request",
    "unknown_mode",
]

# After a break, a text is replayed from its last checkpoint: at most this much is computed twice. A checkpoint is some
# kilobytes, so most texts are shorter and have none. Where servers are lost they may be lost again, perhaps sooner than
# 16,384 characters take: from then on checkpoints come often, and each way back is short.
CHECKPOINT_CHARS, CHECKPOINT_CHARS_AFTER_LOSS = 16_384, 2_048
# Where a server is lost even before it has read what came, each step has to count.
CHECKPOINT_CHARS_ON_THE_WAY_BACK = 1_024

LARGEST = 2**32 - 1
SEED_BITS = 53  # a seed that is chosen here stays exact in every language's numbers
LARGEST_DURATION = 315_576_000_000.0  # seconds: what google.protobuf.Duration may hold

# Least and greatest value that the message can hold; the server decides whether a value makes sense.
RANGES = {
    "max_chars": (1, LARGEST),
    "min_chars": (0, LARGEST),
    "top_k": (0, LARGEST),
    "seed": (0, 2**64 - 1),
    "continuation": (0, LARGEST),
    "logprobs": (0, LARGEST),
    "max_chunk_chars": (1, LARGEST),
    "checkpoint_chars": (0, LARGEST),
}

# Options that the message takes as they are.
SAME = (
    "model",
    "max_chars",
    "min_chars",
    "continuation",
    "include_stop",
    "echo",
    "logprobs",
    "resume_token",
    "return_token",
    "other_numerics",
)


class SamplingOptions(TypedDict, total=False):
    """The part of `GenerateOptions` that says which text is drawn, from which model."""

    model: str
    """NAME or NAME@VERSION of a served model. Default: the server's choice, where it has one."""
    max_chars: int | None
    """Most characters to generate, from 1. Default: the server's, 256 unless it was started otherwise."""
    min_chars: int | None
    """Stop strings and repetitions are searched for only in what follows this many generated characters. Default: 0."""
    temperature: float | None
    """Divides the logits, from 0: below 1 safer, above 1 wilder, 0 always the most probable character. Default: 1."""
    top_k: int | None
    """Only this many characters: the most probable ones, from 1. Default: no limit."""
    top_p: float | None
    """Among those, only the fewest most probable whose shares reach this sum, above 0 to 1. Default: 1, no limit."""
    min_p: float | None
    """Only characters at least this share as probable as the most probable one, 0 to 1. Default: 0, no limit."""
    allowed: str | None
    """Only these characters are generated. Default: all of the model's vocabulary."""
    banned: str | None
    """None of these characters is generated. Default: none is banned."""
    bias: Mapping[str, float] | None
    """Numbers from -100 to 100, by character, that are added to its logit: {"e": -2}. Default: none."""
    seed: int | None
    """Same seed, same text; 0 to 2**64 - 1. Default: a random one, which `started` and `finish` tell."""
    continuation: int | None
    """Which of the texts of a seed: `continuations(prompt, n=3)` gives those of 0, 1 and 2. Default: 0."""


class GenerateOptions(SamplingOptions, total=False):
    """The options of a text. None is as if the option were absent: then its default counts."""

    unknown: Literal["refuse", "skip", "replace"] | None
    """The prompt's characters that the model doesn't know: "refuse" fails, "skip" leaves them out, "replace" takes
    U+FFFD, "?", a space or the start character for each; `started.unknown_chars` counts them. Default: "refuse"."""
    stop: str | Sequence[str]
    """The text ends before this string, or the first of several; only generated text is searched. Default: none."""
    include_stop: bool
    """The text ends after the stop string, not before it. Default: False."""
    stop_on_repeat: Repeat | None
    """The text ends when it repeats itself: `Repeat(200, 4)`, as soon as its last characters are one block of at most
    200 characters, four times in a row. All of it is sent; only generated text counts. Default: it may go on."""
    echo: bool
    """The text begins with the prompt. Default: False."""
    logprobs: int | None
    """The stream's `logprobs` get each character's log-probability, in nats, its `alternatives` this many (0 to 20) of
    the most probable characters at each place. Default: neither."""
    max_chunk_chars: int | None
    """Most characters in one chunk, from 1. Default: as many as are ready."""
    max_chunk_delay: float | None
    """Seconds that a character may wait for others of the same chunk, 0.005 to 10. Default: the server's, 0.02."""
    time_limit: float | None
    """Seconds after which the text ends well, with reason "deadline" (`timeout` fails it instead). Default: none."""
    resume_token: bytes
    """The token of an earlier `finish`: the text goes on from there, with `prompt` in between. Default: a new text."""
    return_token: bool
    """`finish` gets a resume token. Default: False."""
    checkpoint_chars: int | None
    """About how many characters are sent back at most after a break, from 64; 0: always all that came. Default: 16,384,
    and 2,048 or fewer once a server was lost; none where no server takes another's tokens."""
    replica: Replica | None
    """Only a replica that equals this one in the fields that are set may answer. Default: any."""
    other_numerics: bool
    """After a break or from a token, go on also on servers that compute with other precision or numerics, though the
    text may differ from the one that would have come. Default: False."""


F = TypeVar("F", bound=Callable[..., Any])


def documents(kind: type) -> Callable[[F], F]:
    """Return a decorator that adds the options of a TypedDict, with their docstrings, to a function's own docstring.

    Editors show the docstrings below the fields by themselves; `help` knows only those of functions and classes.
    """

    def add(function: F) -> F:
        lines = [f"{name}: {text}" for name, text in field_docs(kind).items()]
        fields = "\n".join(
            textwrap.fill(line, 112, initial_indent=" " * 4, subsequent_indent=" " * 8) for line in lines
        )
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n{fields}\n"
        return function

    return add


def field_docs(kind: type) -> dict[str, str]:
    """Return the docstrings below a TypedDict's fields, those of its bases too; none where there are no sources."""
    module = sys.modules[kind.__module__]
    tree = _classes(module.__name__).get(kind.__name__)
    if tree is None:
        return {}
    bases = [getattr(module, ast.unparse(base)) for base in tree.bases]
    found = {name: text for base in bases if base is not TypedDict for name, text in field_docs(base).items()}
    for field, below in itertools.pairwise(tree.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


@functools.cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, SyntaxError):
        return {}
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def generate_request(prompt: str, options: GenerateOptions, *, checkpoints: bool) -> pb.GenerateRequest:
    """Build the message. `checkpoints` says whether the text has checkpoints if the options don't.

    Raises:
        TypeError: an option that doesn't exist.
        ValueError: a value that the message can't hold.
    """
    given: Mapping[str, Any] = {name: value for name, value in options.items() if value is not None}
    check_names(options, GenerateOptions)
    _check(prompt, given)
    seed = given.get("seed")
    if seed is None and not given.get("resume_token"):  # a token has the seed of its text
        seed = secrets.randbits(SEED_BITS)
    return pb.GenerateRequest(
        prompt=prompt,
        sampling=_sampling(given),
        seed=seed,
        stop=_stops(given),
        chunking=pb.Chunking(
            max_chars=given.get("max_chunk_chars"),
            max_delay=_duration("max_chunk_delay", given.get("max_chunk_delay")),
        ),
        time_limit=_duration("time_limit", given.get("time_limit")),
        checkpoint_chars=given.get("checkpoint_chars", _checkpoint_chars(given) if checkpoints else 0) or None,
        unknown=unknown_mode(given),
        stop_on_repeat=_repeat(given),
        replica=given["replica"].message() if "replica" in given else None,
        **{name: given[name] for name in SAME if name in given},
    )


def chooses_checkpoints(options: GenerateOptions) -> bool:
    """Return whether the caller leaves it to the client how often there are checkpoints."""
    return options.get("checkpoint_chars") is None


def _checkpoint_chars(given: Mapping[str, Any]) -> int:
    """Return the spacing of checkpoints before a break, 0 for a text that ends before the first one."""
    return 0 if given.get("max_chars", LARGEST) <= CHECKPOINT_CHARS else CHECKPOINT_CHARS


def check_names(options: Iterable[str], kind: type) -> None:
    """Raise TypeError for a name that `kind`, a TypedDict, has not: it checks nothing at run time itself."""
    known = kind.__annotations__
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise TypeError(f"there is no option {name!r}{hint}; options are {', '.join(known)}")


def check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: {text!r} is no text that UTF-8 can carry (character {error.start})") from None


def check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name}: {value} is not in {least}..{most}")


def _check(prompt: str, given: Mapping[str, Any]) -> None:
    check_text("prompt", prompt)
    for name, text in _texts(given):
        check_text(name, text)
    for name, (least, most) in RANGES.items():
        if name in given:
            check_range(name, given[name], least, most)


def _texts(given: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield from ((name, given[name]) for name in ("model", "allowed", "banned") if name in given)
    yield from (("stop", stop) for stop in _stops(given))
    yield from (("bias", char) for char in given.get("bias", ()))


def _stops(given: Mapping[str, Any]) -> list[str]:
    stop = given.get("stop", ())
    return [stop] if isinstance(stop, str) else list(stop)


def _sampling(given: Mapping[str, Any]) -> pb.Sampling:
    bias = pb.Bias(of=given["bias"]) if given.get("bias") else None
    names = ("temperature", "top_k", "top_p", "min_p", "allowed", "banned")
    return pb.Sampling(bias=bias, **{name: given[name] for name in names if name in given})


def _repeat(given: Mapping[str, Any]) -> pb.Repeat | None:
    if "stop_on_repeat" not in given:
        return None
    repeat = given["stop_on_repeat"]
    if not isinstance(repeat, Repeat):
        raise TypeError(f"stop_on_repeat: {repeat!r} is no Repeat(max_period, times)")
    for name in ("max_period", "times", "min_period"):
        check_range(f"stop_on_repeat.{name}", getattr(repeat, name), 0, LARGEST)
    return repeat.message()


def unknown_mode(given: Mapping[str, Any]) -> str | None:
    """Return the name of the message's value for the option `unknown`, None where it is left out."""
    if "unknown" not in given:
        return None
    names = ("refuse", "skip", "replace")
    if given["unknown"] not in names:
        raise ValueError(f"unknown: {given['unknown']!r} is none of {', '.join(names)}")
    return f"UNKNOWN_{given['unknown'].upper()}"


def _duration(name: str, seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    if not abs(seconds) <= LARGEST_DURATION:
        raise ValueError(f"{name}: {seconds} is no length of time: seconds up to {LARGEST_DURATION:.0f} are")
    whole = math.trunc(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))
