r"""`charstream stream --interactive`: a person and a model write one text by turns.

On a terminal there is a prompt, an error leaves the text as it was, and Ctrl-C ends the model's turn. With a pipe, only
the model's words are printed, and the first error ends the process, as in any script.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from client.commands.common import hint, one_line
from client.commands.conversation import Conversation, Turn
from client.commands.flags import StreamSettings, generate_options, unescape
from client.commands.printing import repeated_block, write
from client.errors import CharstreamError, InvalidRequest, WrongReplica
from client.sync_client import Client
from client.sync_streams import TextStream

__all__ = ["Interactive"]

PROMPT = "> "
LEAVE = ("/quit", "/exit")

HELP = r"""What you type is added to the text, and the model goes on with it. The line's end is no part of the text;
\n, \t, \r and \\ are understood. An empty line lets the model go on. "//" begins a text with "/".
  /more [N]          go on without new text, for N characters
  /undo              take back the last turn, yours and the model's
  /again             take back what the model said, and let it say something else
  /set               what is set
  /set NAME VALUE    temperature, top_k, top_p, min_p or max_chars from now on; "off" takes a limit away
  /save FILE         write the text
  /quit, Ctrl-D      leave; Ctrl-C ends the model's turn"""

# name -> (its type, the value that limits nothing). A resume token keeps its settings: only another value ends a limit.
SETTABLE: dict[str, tuple[Callable[[str], float], float | None]] = {
    "temperature": (float, 1.0),
    "top_k": (int, 2**32 - 1),
    "top_p": (float, 1.0),
    "min_p": (float, 0.0),
    "max_chars": (int, None),
}


class Interactive:
    """The loop that reads a person's lines, and asks the model to go on after each."""

    def __init__(self, client: Client, settings: StreamSettings) -> None:
        self._client, self._settings = client, settings
        self._options = generate_options(settings)
        self._conversation = Conversation(self._options.get("resume_token", b""), settings.seed)
        self._stream: TextStream | None = None  # the model's turn
        self._terminal = all(file is not None and file.isatty() for file in (sys.stdin, sys.stdout))
        if self._terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # gives input() a history and arrow keys

    def run(self) -> None:
        """Read lines until the person leaves.

        Raises:
            CharstreamError, ValueError, OSError: something failed, and there is no terminal to correct it at.
        """
        prompt = self._settings.prompt
        if prompt:
            write(prompt if self._settings.echo else "")
            self._attempt(self._say, prompt)
        while True:
            try:
                line = _read_line(self._terminal)
                if line is None or line.strip() in LEAVE:
                    return
                self._attempt(self._obey, line)
            except KeyboardInterrupt:  # at the prompt: the text must not be lost by it
                if not self._terminal:
                    raise
                print("\n/quit or Ctrl-D leaves", file=sys.stderr)

    def _attempt(self, action: Callable[[str], None], line: str) -> None:
        try:
            action(line)
        except BrokenPipeError:
            raise
        except (CharstreamError, ValueError, OSError) as error:
            if not self._terminal:
                raise
            print(one_line(error) + hint(error, self._settings), file=sys.stderr)

    def _obey(self, line: str) -> None:
        if line.startswith("/") and not line.startswith("//"):
            name, _, rest = line.partition(" ")
            if name not in self._commands:
                raise ValueError(f"there is no {name}: {', '.join(self._commands)}, /quit")
            self._commands[name](self, rest.strip())
        else:
            self._say(unescape(line[1:] if line.startswith("//") else line))

    def _note(self, text: str) -> None:
        if self._terminal:
            print(text, file=sys.stderr)

    def _say(self, typed: str) -> None:
        self._continue(self._conversation, typed)

    def _more(self, chars: str) -> None:
        self._continue(self._conversation, "", max_chars=int(_number(int, chars)) if chars else None)

    def _undo(self, _: str = "") -> None:
        taken = self._last_turn()
        self._conversation = self._conversation.without_last_turn()
        end = self._conversation.text[-40:]
        self._note(f"took back {len(taken.typed + taken.continued)} characters; the text ends with {end!r}")

    def _again(self, _: str = "") -> None:
        last = self._last_turn()
        seed = None if last.seed is None else (last.seed + 1) % 2**64
        self._continue(self._conversation.without_last_turn(), last.typed, seed=seed, max_chars=last.max_chars)

    def _last_turn(self) -> Turn:
        if not self._conversation.turns:
            raise ValueError("there is no turn to take back")
        return self._conversation.turns[-1]

    def _set(self, words: str) -> None:
        if not words:
            given = {name: value for name in SETTABLE if (value := self._options.get(name)) is not None}
            self._note("\n".join(f"{name} {value}" for name, value in given.items()) or "nothing: the server chooses")
            return
        name, _, value = words.partition(" ")
        name = name.replace("-", "_")
        if name not in SETTABLE:
            raise ValueError(f"{name} can't be set: {', '.join(SETTABLE)} can")
        kind, off = SETTABLE[name]
        self._options[name] = off if value == "off" else _number(kind, value)  # type: ignore[literal-required]

    def _save(self, file: str) -> None:
        if not file:
            raise ValueError("/save needs the name of a file")
        Path(file).expanduser().write_bytes(self._conversation.text.encode())
        self._note(f"{len(self._conversation.text):,} characters in {file}")

    def _help(self, _: str = "") -> None:
        print(HELP, file=sys.stderr)

    _commands: ClassVar[dict[str, Callable[["Interactive", str], None]]] = {
        "/more": _more,
        "/undo": _undo,
        "/again": _again,
        "/set": _set,
        "/save": _save,
        "/help": _help,
    }

    def _continue(
        self, base: Conversation, typed: str, *, seed: int | None = None, max_chars: int | None = None
    ) -> None:
        """Add a turn to `base`; if the server refuses it, everything stays as it was."""
        try:
            self._conversation = self._turn(base, typed, seed, max_chars)
        except (InvalidRequest, WrongReplica) as error:
            plain = base.without_tokens()
            refused = isinstance(error, WrongReplica) or error.field == "resume_token"
            if not refused or plain == base:
                raise
            self._note(f"{one_line(error)}: the model reads the whole text again")
            self._conversation = self._turn(plain, typed, seed, max_chars)

    def _turn(self, base: Conversation, typed: str, seed: int | None, max_chars: int | None) -> Conversation:
        token, unread = base.place
        options = self._options.copy()
        options["resume_token"], options["return_token"] = token, True
        options["seed"] = base.next_seed if seed is None else seed
        options["max_chars"] = max_chars or options.get("max_chars")
        ended = base.turns[-1] if base.turns and not typed else None
        if ended and (ended.stop or ended.repeats):  # otherwise it would end there again at once
            options["min_chars"] = max(options.get("min_chars") or 0, len(ended.stop), 1)
        settings = self._settings
        with (
            _on_ctrl_c(self._stop) if self._terminal else contextlib.nullcontext(),
            self._client.stream(unread + typed, timeout=settings.timeout, resume=settings.resume, **options) as stream,
        ):
            self._stream = stream
            self._show(stream)
        finish = stream.finish
        if finish and finish.reason == "repeat":
            self._note(f"it repeats itself:{repeated_block(finish, 'bytes' if stream.raw else 'characters')}")
        return base.with_turn(
            Turn(
                typed=typed,
                continued=stream.text,
                token=finish.resume_token if finish else b"",
                seed=stream.started.seed if stream.started else options["seed"],
                stop=finish.stop if finish and not settings.include_stop else "",
                max_chars=max_chars,
                repeats=finish is not None and finish.reason == "repeat",
            )
        )

    def _show(self, stream: TextStream) -> None:
        """Print the chunks as they come. Raises CharstreamError: nothing came, or there is no terminal."""
        try:
            for chunk in stream:
                write(chunk)
        except CharstreamError as error:
            if not self._terminal or not stream.text:
                raise
            self._note("\n" + one_line(error))
        if not stream.text.endswith("\n"):
            write("\n")

    def _stop(self) -> None:
        if self._stream:
            self._stream.cancel()


@contextlib.contextmanager
def _on_ctrl_c(action: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C call `action` in another thread: an exception within gRPC would leave its locks held, and the next
    call would wait for them for ever."""
    before = signal.signal(signal.SIGINT, lambda *_: threading.Thread(target=action).start())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _number(kind: Callable[[str], float], given: str) -> float:
    try:
        return kind(given)
    except ValueError:
        raise ValueError(f"{given!r} is no {'whole ' if kind is int else ''}number") from None


def _read_line(terminal: bool) -> str | None:
    """Return the typed line, or None after Ctrl-D and at the end of a pipe."""
    if not sys.stdin:
        return None
    try:
        return input(PROMPT if terminal else "")
    except EOFError:
        write("\n" if terminal else "")
        return None
