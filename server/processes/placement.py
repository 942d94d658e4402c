"""A text in an engine process: what another engine needs to go on with it, character for character.

An outcome depends on the seed, on its position and on what came before, never on the engine. So a text goes on wherever
its request is submitted once more, with the characters that were delivered as forced ones. The engine sends the row
state now and then, so that neither the characters kept here nor those that are forced again grow with the text.
"""

import time
from dataclasses import dataclass, field, replace

import numpy as np

from bundle.vocabulary import MAX_PARTIAL_SYMBOLS, Vocabulary
from server.engine.messages import Begun, Finish, Output, Reason, Request, RowState, Snapshot, StopRule

__all__ = ["STATE_CHARS", "Placement", "request_after", "request_from"]

# Characters between two row states of a text, of a few kilobytes each: about as many are forced again at most.
STATE_CHARS = 1024


@dataclass
class Placement:
    """A text, the engine that has it, and what was delivered of it.

    Attributes:
        request: the text from its last usable row state on, or from its beginning.
        engine: the index of the engine that has it; None while none can take it.
        number: names the text in commands to that engine, and in its outputs.
        credit: characters that may still be generated before the reader takes more.
        conclusion: why it has to end where it is, if it has to.
        first_char: time.monotonic() of the first output; 0 before.
        placed: time.monotonic() when its engine got it.
        fruitless: engines in a row that died before they delivered anything, of this text or another, once they had it.
        is_behind: it was submitted once more, and nothing was delivered since.
        barren: engines in a row that died and had delivered nothing of this text.
    """

    request: Request
    engine: int | None = None
    number: int = -1
    credit: int = 0
    conclusion: Reason | None = None
    first_char: float = 0.0
    placed: float = 0.0
    fruitless: int = 0
    barren: int = 0
    is_behind: bool = False
    _parts: list[str] = field(default_factory=list)  # delivered since `request` begins
    _chars: int = 0
    _state: RowState | None = None  # from beyond the last character that was delivered

    def note_text(self, text: str) -> None:
        """Take in characters that were delivered."""
        self._parts.append(text)
        self._chars += len(text)
        self.credit -= len(text)
        self.fruitless, self.barren, self.is_behind = 0, 0, False
        self.first_char = self.first_char or time.monotonic()
        if self._state:
            self._begin_at_state(self._state)

    def note(self, output: Output) -> None:
        """Take in an output that was delivered."""
        self._state = output.state or self._state
        if output.text:
            self.note_text(output.text)
        if output.snapshot:
            self._begin_at_checkpoint()

    @property
    def chars(self) -> int:
        """How many characters another engine would have to force again."""
        return self._chars

    def replay(self, vocabulary: Vocabulary) -> Request:
        """Return the request by which another engine goes on with the text."""
        self.is_behind = True
        request = self._rest(vocabulary)
        begun = replace(request.begun, is_replay=self.first_char > 0)
        return replace(request, window=max(1, self.credit), begun=begun)

    def finish(self, finish: Finish) -> Finish:
        """Return the finish for the reader, of a text of which its engine may have had only the end."""
        if not self.first_char:
            return finish
        # Of an engine that took over, the first character came later than the reader's.
        seconds = min(finish.first_char_seconds, self.first_char - self.request.submitted)
        return replace(finish, first_char_seconds=seconds, queue_seconds=min(finish.queue_seconds, seconds))

    def end(self, reason: Reason, vocabulary: Vocabulary, start: RowState) -> Output:
        """Return the last output of a text that ends where its reader is, without an engine.

        Args:
            start: the row state before a text.
        """
        rest, now = self._rest(vocabulary), time.monotonic()
        seconds = (self.first_char or now) - self.request.submitted
        finish = Finish(
            reason=reason,
            stop="",
            stop_chars_sent=0,
            generated_chars=rest.begun.generated_chars,
            position=_begin(rest) + (len(rest.forced) if self._is_past_prompt else 0),
            queue_seconds=seconds,
            first_char_seconds=seconds,
            total_seconds=now - self.request.submitted,
        )
        snapshot = _snapshot(rest, start) if rest.snapshot and self._is_past_prompt else None
        return Output(self.request.stream, "", finish, snapshot=snapshot)

    def _rest(self, vocabulary: Vocabulary) -> Request:
        return request_after(self.request, "".join(self._parts), vocabulary)

    @property
    def _is_past_prompt(self) -> bool:
        """Whether the last character that the reader has is beyond the prompt, or its end."""
        has_begun = self._chars > 0 or (self.request.origin is not None and not len(self.request.forced))
        return has_begun and self._chars >= _echoed_chars(self.request)

    def _begin_at_state(self, state: RowState) -> None:
        """Let the request begin at the state, once what was delivered reaches it."""
        if self._chars >= _chars_before(state, self.request):
            self.request, text = request_from(state, self.request, "".join(self._parts))
            self._parts, self._chars, self._state = [text], len(text), None

    def _begin_at_checkpoint(self) -> None:
        """Let the request count the distance to the next checkpoint from here."""
        generated = max(0, self._chars - _echoed_chars(self.request))
        self.request = replace(self.request, begun=replace(self.request.begun, unchecked_chars=-generated))


def request_after(request: Request, text: str, vocabulary: Vocabulary) -> Request:
    """Return the request that goes on after `text`, which came of `request` and counts as received."""
    generated = text[_echoed_chars(request) :]
    begun = _advance(request.begun, len(text), generated)
    return replace(
        request,
        forced=np.concatenate([request.forced, vocabulary.symbols_to_tokens(generated)]),
        silent=request.silent + len(text),
        max_chars=request.max_chars - len(generated),
        begun=replace(begun, received=begun.received + generated),
    )


def request_from(state: RowState, request: Request, text: str) -> tuple[Request, str]:
    """Return the request that goes on from a row state, and the part of `text`, which came of `request`, after it."""
    place = _chars_before(state, request)
    generated, stops = text[_echoed_chars(request) : place], request.stops
    begun = _advance(request.begun, place, generated)
    searched = begun.received + generated
    rest = replace(
        request,
        origin=state,
        forced=np.zeros(0, np.int64),
        silent=0,
        max_chars=request.max_chars - len(generated),
        stops=replace(stops, skip=max(0, stops.skip - len(searched)), tail=_tail(stops, searched)),
        begun=replace(begun, received="", generated_before=begun.generated_before + len(searched)),
    )
    return rest, text[place:]


def _snapshot(rest: Request, start: RowState) -> Snapshot:
    """Return the place where the request begins to generate."""
    begun, forced = rest.begun, tuple(rest.forced.tolist())
    tail = _tail(rest.stops, begun.received)
    return Snapshot(rest.origin or start, forced, tail, begun.sent_chars, begun.generated_chars, begun.recent)


def _tail(stops: StopRule, searched: str) -> str:
    """Return the end of the generated text in which something that ends it may have begun."""
    return (("" if stops.skip else stops.tail) + searched[stops.skip :])[-stops.tail_chars :]


def _advance(begun: Begun, sent: int, generated: str) -> Begun:
    """Return the part of the text that exists when `sent` more characters are sent, with `generated` at their end."""
    return replace(
        begun,
        sent_chars=begun.sent_chars + sent,
        recent=(begun.recent + generated)[-MAX_PARTIAL_SYMBOLS:],
        unchecked_chars=begun.unchecked_chars + len(generated),
    )


def _echoed_chars(request: Request) -> int:
    """Return how many of the forced characters go to the reader, before generated ones."""
    return len(request.forced) - request.silent


def _chars_before(state: RowState, request: Request) -> int:
    """Return how many characters the reader gets of the request up to the row state."""
    return state.position - _begin(request) - request.silent


def _begin(request: Request) -> int:
    """Return the position before the request's first forced token."""
    return request.origin.position if request.origin else 0
