"""One text in the engine: what its outcomes come to for its reader, and from where it could go on."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from server.engine.messages import Delivery, Finish, Reason, Request, RowState, Scores, Snapshot
from server.engine.plan import Row
from server.engine.stop_strings import Found, StopMatcher
from server.engine.whole import MOST_UNFINISHED
from server.limits import LONGEST_STOP

__all__ = ["Text", "scores_of"]


class Text:
    """A request while it is open.

    Args:
        state: where it stands: at the request's origin, or after characters of it that are known.

    Attributes:
        parked: where it stands while it has no slot.
        admitted: time.monotonic() when it first got one; 0 until then.
        submitted: when it was asked for.
        queued: when it came here.
        sent: generated characters that its reader has, or gets with the next delivery.
        needs_states: it needs more of a run than outcomes: the states around it, or log-probabilities.
    """

    def __init__(self, request: Request, start: RowState, state: RowState) -> None:
        wanted = self.wanted = request.generation
        known = state.position - start.position
        self.row = Row(
            request.stream,
            forced_left=len(wanted.forced) - known,
            silent_left=wanted.silent - known,
            chars_left=wanted.max_chars,
            credit=request.window,
            max_delay=wanted.max_delay,
            full=wanted.sampling.limited or wanted.alternatives is not None,
            scored=wanted.alternatives is not None and wanted.silent < len(wanted.forced),
            identity=request.identity,
        )
        self.needs_states = wanted.keeps_places or wanted.alternatives is not None
        self.parked, self.admitted, self.sent = state, 0.0, len(wanted.received)
        self.queued = time.monotonic()
        self.submitted, self._first_char = request.submitted, 0.0
        self._prompt_end = start.position + len(wanted.forced) - len(wanted.received)
        self._held = ""  # made in short runs for newcomers, not delivered yet
        self._scores: list[Scores] = []  # of characters that are not delivered yet
        self._matcher = self._stop_matcher() if wanted.stop else None
        self._ended: Found | None = None
        if self._matcher and (found := self._matcher.push(wanted.received, sent=True)).stop:
            # What was received is all of the text: it only has to be read.
            self._ended, self.row.chars_left = found, 0
        # The last place before what was sent, and the outcomes that lead on; None: the row stands where it ends.
        self._anchor: RowState | None = None
        self._way: list[int] = []
        self._next: RowState | None = None  # a later one, where that place has not come yet
        self._tail = "" if wanted.stop_skips else wanted.tail
        self._tail += wanted.received[wanted.stop_skips :]
        self._recent = wanted.recent
        self._echoed = wanted.sent_chars - len(wanted.received)
        self._checkpoint = self.sent  # where the last one was

    @property
    def place(self) -> int:
        """The position of the last character that was sent or is known to the reader."""
        return self._prompt_end + self.sent - self.row.forced_left

    def given(self, steps: int) -> NDArray[np.int64]:
        """The characters that are given in its next steps, [K] or fewer."""
        begin = len(self.wanted.forced) - self.row.forced_left
        return self.wanted.forced[begin : begin + steps]

    def take(self, echo: str, generated: str, scores: Scores | None, *, hold: bool, now: float) -> Delivery | None:
        """Takes in what a run made: characters of the prompt for its reader, and new ones; returns what goes out.

        Args:
            scores: of all these characters.
            hold: what does not have to go out now waits for the next run.
        """
        if scores:
            self._scores.append(scores)
        found = self._ended or (self._matcher.push(generated) if self._matcher else Found(generated))
        self._echoed += len(echo)
        self._count(found.text)
        if found.stop:
            return self._finished(found, Reason.STOP, echo + found.text, now)
        if self.row.done:
            return self._finished(found, Reason.LENGTH, echo + found.text + self._flush(), now)
        self._held += echo + found.text
        if hold or not self._held:
            return None
        return self._delivery("", None, now)

    def take_held(self, now: float) -> Delivery | None:
        """What was to wait for the next run, which may not come soon."""
        return self._delivery("", None, now) if self._held else None

    def conclude(self, reason: Reason, now: float) -> Delivery:
        """Ends it where it is; a text that goes on elsewhere keeps back what may begin a stop string."""
        text = self._flush() if reason is Reason.DEADLINE else ""
        return self._finished(Found(""), reason, text, now)

    def remember(self, end: int, before: Callable[[], RowState], outcomes: NDArray[np.int64]) -> None:
        """Keeps the way to the place where what was sent ends, after a run that ended at position `end`.

        Args:
            before: gives the state before the run.
            outcomes: of the run, [K].
        """
        if self.place == end:
            self._anchor = self._next = None
        elif self._anchor is None or self.place >= end - len(outcomes):
            self._anchor, self._way, self._next = before(), outcomes.tolist(), None
        else:
            # More than a run is held back: the anchor follows, or the way from it would grow with the text.
            self._way += outcomes.tolist()
            self._next = self._next or before()
            if self.place >= self._next.position:
                self._way = self._way[self._next.position - self._anchor.position :]
                self._anchor, self._next = self._next, None

    @property
    def checkpoint_due(self) -> bool:
        return 0 < self.wanted.checkpoint_chars <= self.sent - self._checkpoint

    def snapshot(self, current: Callable[[], RowState]) -> Snapshot | None:
        """The place after what was sent; None while the prompt is being read. `current` gives the row's state."""
        if self.row.forced_left:
            return None
        self._checkpoint = self.sent
        state = self._anchor or current()
        forced = self._way[: self.place - state.position] if self._anchor else []
        return Snapshot(state, tuple(forced), self._tail, self._echoed + self.sent, self.sent, self._recent)

    def _stop_matcher(self) -> StopMatcher:
        wanted = self.wanted
        return StopMatcher(wanted.stop, include=wanted.include_stop, skip=wanted.stop_skips, tail=wanted.tail)

    def _count(self, text: str) -> None:
        """Generated characters that will be sent."""
        if self.wanted.keeps_places:
            # In what was not searched no stop string begins, for a later request neither.
            searched = text[max(0, self.wanted.stop_skips - self.sent) :]
            self._tail = (self._tail + searched)[1 - LONGEST_STOP :]
            self._recent = (self._recent + text)[-MOST_UNFINISHED:]
        self.sent += len(text)

    def _flush(self) -> str:
        text = self._matcher.flush() if self._matcher else ""
        self._count(text)
        return text

    def _finished(self, found: Found, reason: Reason, text: str, now: float) -> Delivery:
        finish = Finish(
            reason=reason,
            stop=found.stop,
            stop_chars_sent=found.sent,
            generated_chars=self.sent,
            position=self.place,
            queue_seconds=(self.admitted or now) - self.submitted,
            first_char_seconds=(self._first_char or now) - self.submitted,
            total_seconds=now - self.submitted,
        )
        self.row.chars_left = 0
        return self._delivery(text, finish, now)

    def _delivery(self, text: str, finish: Finish | None, now: float) -> Delivery:
        text, self._held = self._held + text, ""
        self._first_char = self._first_char or now
        return Delivery(self.row.stream, text, finish, self._scores_of(len(text)))

    def _scores_of(self, chars: int) -> Scores | None:
        """Of the next characters that go out."""
        if not self._scores:
            return None
        scores = Scores.join(self._scores)
        self._scores = [scores.part(chars)]
        return scores.part(0, chars)


def scores_of(logprobs: NDArray[np.float32], outcomes: NDArray[np.int64], alternatives: int) -> Scores:
    """Of outcomes [N], with the model's log-probabilities [N, V]; of equals the first in the vocabulary comes first."""
    chosen = np.take_along_axis(logprobs, outcomes[:, None], 1)[:, 0]
    best = _best(logprobs, alternatives) if alternatives else outcomes[:, None][:, :0]
    return Scores(chosen, best, np.take_along_axis(logprobs, best, 1))


def _best(logprobs: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The numbers of the so many most probable characters, [N, count]; sorting a large vocabulary whole is slow."""
    count = min(count, logprobs.shape[1])
    edge = np.partition(logprobs, -count, axis=1)[:, -count, None]
    best = np.empty((len(logprobs), count), np.int64)
    for place, (row, least) in enumerate(zip(logprobs, edge, strict=True)):
        candidates = np.flatnonzero(row >= least)
        best[place] = candidates[np.argsort(-row[candidates], kind="stable")[:count]]
    return best
