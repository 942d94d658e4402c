"""A text in the engine: turns its part of each run into outputs, and knows from where the text can go on."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bundle.vocabulary import MAX_PARTIAL_SYMBOLS
from server.engine.messages import Finish, Output, Reason, Request, RowState, Scores, Snapshot
from server.engine.plan import Row, RowSlice
from server.engine.state_store import RunOutput
from server.engine.text_end import TextEnd

__all__ = ["Sequence"]


class Sequence(Row):
    """A request while the engine has it. The scheduler sees no more of it than a `Row`.

    Args:
        start: the request's origin, or the start of a text.
        state: where the sequence stands: at `start`, or after some of its forced tokens, which need not run.

    Attributes:
        saved_state: its row state while it has no slot.
        times: when it came, got its first slot, and had its first output, or the end.
        places: how far its reader has come, and from where the text could go on.
    """

    def __init__(self, request: Request, start: RowState, state: RowState) -> None:
        known, scored = state.position - start.position, request.alternatives is not None
        super().__init__(
            request.stream,
            forced_left=len(request.forced) - known,
            silent_left=request.silent - known,
            chars_left=request.max_chars,
            credit=request.window,
            chunking=request.chunking,
            full=request.sampling.is_limited or scored,
            scored=scored and request.silent < len(request.forced),
            needs_states=request.needs_states,
            identity=request.identity,
        )
        self.request, self.saved_state = request, state
        self.times, self.places, self._pending = SequenceTimes(), Places(request, start), PendingText()
        stops = request.stops
        self._end = TextEnd(stops) if stops.strings or stops.repeat else None
        if self._end:
            self._end.push(request.begun.received, sent=True)
            if self._end.reason:
                # What was received is all of the text: it only has to be read.
                self.chars_left = 0

    def next_forced(self, steps: int) -> NDArray[np.int64]:
        """Return the tokens that are forced in its next steps, [K] or fewer."""
        begin = len(self.request.forced) - self.forced_left
        return self.request.forced[begin : begin + steps]

    def take(self, part: RowSlice["Sequence"], run: RunOutput, *, postpone: bool, now: float) -> Output | None:
        """Take in its part of a run, echoed characters of the prompt and new ones; return the output for its reader.

        Args:
            postpone: text that can wait for the next run, waits.
        """
        if part.end == part.silent and not self.is_done:
            return None
        request, symbols, begin = self.request, run.symbols, part.column * len(run.tokens)
        if request.alternatives is not None:
            place = slice(part.silent, part.end), part.column
            self._pending.scores.append(_score(run.logprobs[place], run.tokens[place], request.alternatives))
        echo = symbols[begin + part.silent : begin + part.forced]
        generated = symbols[begin + part.forced : begin + part.end]
        if self._end:
            generated = self._end.push(generated)
        self.places.note_sent(echo, generated)
        if self._end and self._end.reason:
            return self._finish(self._end.reason, echo + generated, now)
        if self.is_done:
            return self._finish(Reason.LENGTH, echo + generated + self._flush(), now)
        self._pending.text += echo + generated
        if (postpone and part.can_wait) or not self._pending.text:
            return None
        return self._output("", None, now)

    def take_pending(self, now: float) -> Output | None:
        """Return the text that was to wait for the next run, which may not come soon."""
        return self._output("", None, now) if self._pending.text else None

    def conclude(self, reason: Reason, now: float) -> Output:
        """End it where it is; a text that goes on elsewhere keeps back what may begin a stop string."""
        return self._finish(reason, self._flush() if reason is Reason.DEADLINE else "", now)

    def remember(self, end: int, before: Callable[[], RowState], outcomes: NDArray[np.int64]) -> None:
        """Keep a row state from before the reader's place, and the tokens between, after a run that ended at `end`.

        Args:
            end: position of the run's last character.
            before: gives the row state before the run.
            outcomes: tokens of the run, [K].
        """
        self.places.remember(self.forced_left, end, before, outcomes)

    def snapshot(self, current: Callable[[], RowState]) -> Snapshot | None:
        """Return the place where the reader is; None during prefill. `current` gives the row state."""
        return None if self.forced_left else self.places.snapshot(current)

    def _flush(self) -> str:
        text = self._end.flush() if self._end else ""
        self.places.note_sent("", text)
        return text

    def _finish(self, reason: Reason, text: str, now: float) -> Output:
        end = self._end if self._end and self._end.reason is reason else None
        submitted = self.request.submitted
        finish = Finish(
            reason=reason,
            stop=end.stop if end else "",
            stop_chars_sent=end.stop_chars_sent if end else 0,
            generated_chars=self.places.sent,
            position=self.places.position(self.forced_left),
            queue_seconds=(self.times.admitted or now) - submitted,
            first_char_seconds=(self.times.first_char or now) - submitted,
            total_seconds=now - submitted,
            repeat_period=end.repeat_period if end else 0,
        )
        self.chars_left = 0
        return self._output(text, finish, now)

    def _output(self, text: str, finish: Finish | None, now: float) -> Output:
        """Return the pending text and `text`, with the scores of these characters."""
        self.times.first_char = self.times.first_char or now
        return Output(self.stream, *self._pending.take(text, finish))


class SequenceTimes:
    """When a sequence came here, first got a slot, and had its first output or its end: time.monotonic(), or 0."""

    def __init__(self) -> None:
        self.queued, self.admitted, self.first_char = time.monotonic(), 0.0, 0.0


class PendingText:
    """Text of short runs for newcomers that is not sent yet, and the scores of all characters that are not."""

    def __init__(self) -> None:
        self.text = ""
        self.scores: list[Scores] = []

    def take(self, more: str, finish: Finish | None) -> tuple[str, Finish | None, Scores | None]:
        """Return the text followed by `more`, the finish, and the scores of that text; scores beyond it stay."""
        text, self.text = self.text + more, ""
        scores = Scores.join(self.scores)
        if scores:
            self.scores = [scores.part(len(text))]
            scores = scores.part(0, len(text))
        return text, finish, scores


class Places:
    """How far the reader of a text has come, and from where the text could go on.

    Attributes:
        sent: how many generated characters the reader has, or gets with the next output.
    """

    def __init__(self, request: Request, start: RowState) -> None:
        begun = request.begun
        self._request, self.sent = request, begun.generated_chars
        self._prompt_end = start.position + len(request.forced) - self.sent
        # A row state from before the reader's place, and the tokens from there on; None: the row stands at that place.
        self._base: RowState | None = None
        self._tokens_from_base: list[int] = []
        self._later_base: RowState | None = None  # takes over when the reader's place has passed it
        stops = request.stops
        self._tail = (("" if stops.skip else stops.tail) + begun.received[stops.skip :])[-stops.tail_chars :]
        self._recent = begun.recent
        self._echoed = begun.sent_chars - self.sent
        self._checkpoint = self.sent - begun.unchecked_chars  # where the last one was
        self._state_sent = self.sent  # when an output carried the row state

    def position(self, forced_left: int) -> int:
        """Return the position of the last character that was sent or is known to the reader."""
        return self._prompt_end + self.sent - forced_left

    @property
    def is_state_due(self) -> bool:
        """Whether an output should carry the row state: see `Request.state_chars`."""
        return 0 < self._request.state_chars <= self.sent - self._state_sent

    def note_state(self) -> None:
        """Note that an output carries the row state."""
        self._state_sent = self.sent

    @property
    def is_checkpoint_due(self) -> bool:
        return 0 < self._request.checkpoint_chars <= self.sent - self._checkpoint

    def note_sent(self, echo: str, generated: str) -> None:
        """Count echoed and generated characters that will be sent."""
        self._echoed += len(echo)
        if self._request.keeps_places:
            # Nothing that ends the text may begin in the first `min_chars`, not in a later request either.
            stops, begun = self._request.stops, self._request.begun
            searched = generated[max(0, stops.skip + begun.generated_before - self.sent) :]
            self._tail = (self._tail + searched)[-stops.tail_chars :]
            self._recent = (self._recent + generated)[-MAX_PARTIAL_SYMBOLS:]
        self.sent += len(generated)

    def remember(self, forced_left: int, end: int, before: Callable[[], RowState], outcomes: NDArray[np.int64]) -> None:
        """Keep a row state from before the reader's place, and the tokens between: see `Sequence.remember`."""
        position = self.position(forced_left)
        if position == end:
            self._base = self._later_base = None
        elif self._base is None or position >= end - len(outcomes):
            self._base, self._tokens_from_base, self._later_base = before(), outcomes.tolist(), None
        else:
            # More than one run is held back: move the base on, or its list of tokens would grow with the text.
            self._tokens_from_base += outcomes.tolist()
            self._later_base = self._later_base or before()
            if position >= self._later_base.position:
                self._tokens_from_base = self._tokens_from_base[self._later_base.position - self._base.position :]
                self._base, self._later_base = self._later_base, None

    def snapshot(self, current: Callable[[], RowState]) -> Snapshot:
        """Return the place where the reader is, once nothing is forced any more."""
        self._checkpoint = self.sent
        state = self._base or current()
        forced = self._tokens_from_base[: self.position(0) - state.position] if self._base else []
        return Snapshot(state, tuple(forced), self._tail, self._echoed + self.sent, self.sent, self._recent)


def _score(logprobs: NDArray[np.float32], outcomes: NDArray[np.int64], alternatives: int) -> Scores:
    """Return the scores of outcomes [N], with the model's log-probabilities [N, V].

    Of equally probable characters the first in the vocabulary comes first.
    """
    chosen = np.take_along_axis(logprobs, outcomes[:, None], 1)[:, 0]
    best = _most_probable(logprobs, alternatives) if alternatives else outcomes[:, None][:, :0]
    return Scores(chosen, best, np.take_along_axis(logprobs, best, 1))


def _most_probable(logprobs: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the `count` most probable tokens of each row, [N, count]; sorting a large vocabulary whole is slow."""
    count = min(count, logprobs.shape[1])
    edge = np.partition(logprobs, -count, axis=1)[:, -count, None]
    best = np.empty((len(logprobs), count), np.int64)
    for place, (row, least) in enumerate(zip(logprobs, edge, strict=True)):
        candidates = np.flatnonzero(row >= least)
        best[place] = candidates[np.argsort(-row[candidates], kind="stable")[:count]]
    return best
