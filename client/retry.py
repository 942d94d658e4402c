"""The decision after a failed call: ask again, where and when, or give up. Uses no channel and no clock."""

import random
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from .errors import CharstreamError, DeadlineExceeded, InvalidRequest, Overloaded, Unavailable, WrongReplica

__all__ = ["Recovery", "Task", "UnaryTask"]

FIRST_WAIT, LONGEST_WAIT, DOUBLINGS = 0.05, 2.0, 6  # seconds
# Times that servers are asked beyond once an address, if they differ or go away: within half a second; and within some
# three where one address stands for all and a text has begun: by then a proxy knows which of its servers are dead.
AGAIN, AGAIN_AT_ONE_ADDRESS = 4, 7

Item_co = TypeVar("Item_co", covariant=True)


class Task(Protocol[Item_co]):
    """A wish of the caller that may take several requests: it keeps what came and knows what is missing."""

    @property
    def is_done(self) -> bool:
        """Whether everything has come."""

    @property
    def is_answered(self) -> bool:
        """Whether everything that the last message asked for has come."""

    @property
    def has_begun(self) -> bool:
        """Whether anything has come: there is a server, and there is something to lose."""

    @property
    def can_resume(self) -> bool:
        """Whether a message can ask for the missing rest alone."""

    @property
    def has_advanced(self) -> bool:
        """Whether the last message made the way to the end shorter, even if it had no new item."""

    @property
    def attempt(self) -> str:
        """The reason for the last message, before its answer comes.

        "" for a first one, "retry" for one after a failure before anything came, or the kind of the resume.
        """

    @property
    def replayed_chars(self) -> int:
        """How many characters were sent back so far."""

    def message(self, now: float) -> Any:
        """The message to send next."""

    def take(self, response: Any, now: float) -> Sequence[Item_co]:
        """Keep one message; return the items in it that are new to the caller."""

    def note_loss(self, *, is_taken: bool) -> None:
        """Count a server that was lost; `is_taken`: its error doesn't rule out that it had taken the message."""

    def drop_token(self) -> bool:
        """Go on without the resume token, which was refused; return whether that changes the next message."""

    def attach_progress(self, error: CharstreamError, now: float) -> CharstreamError:
        """Return the error with what had come before it."""


class UnaryTask:
    """A task with one answer, which comes as a whole or not at all."""

    is_done = is_answered = has_begun = has_advanced = False
    can_resume = True
    attempt, replayed_chars = "", 0

    def __init__(self, message: Any) -> None:
        self._message = message

    def message(self, now: float) -> Any:
        return self._message

    def take(self, response: Any, now: float) -> Sequence[Any]:
        return (response,)

    def note_loss(self, *, is_taken: bool) -> None:
        pass

    def drop_token(self) -> bool:
        return False

    def attach_progress(self, error: CharstreamError, now: float) -> CharstreamError:
        return error


T = TypeVar("T")


class Recovery(Generic[T]):
    """The decisions for one task. The caller sends `task.message` to the server number `address`, reports, and waits.

    Before anything has come, each address is asked once, without a wait: a wrong address must not make the caller hang.
    Later the next address is asked at once; after all were asked, again after waits that double, until `patience`
    seconds bring nothing new.

    An address may stand for several servers: a name with several records, or a proxy. So where somebody is there, and
    goes away or does not fit, it is asked some times more: another one may answer.

    Args:
        deadline: the caller's deadline, on the clock of `now`.
        resume: False: the first failure is the end.
    """

    def __init__(
        self, task: Task[T], addresses: int, first: int, *, patience: float, deadline: float | None, resume: bool
    ) -> None:
        self.task = task
        self.address = first
        self._addresses, self._patience, self._deadline, self._resume = addresses, patience, deadline, resume
        self._failures: list[CharstreamError] = []  # since the last new item
        self._give_up_at = 0.0

    def seconds_left(self, now: float) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - now)

    def take(self, response: Any, now: float) -> Sequence[T]:
        items = self.task.take(response, now)
        if items or self.task.has_advanced:
            self._failures.clear()
        return items

    def handle_end(self, now: float) -> float:
        """Handle a call that ended with status OK, complete or not; return as `handle_failure` does."""
        unexplained = "the stream ended without saying how: is something in between cutting it?"
        return self.handle_failure(Unavailable(unexplained), now)

    def handle_failure(self, error: CharstreamError, now: float) -> float:
        """Return the seconds to wait before the next message goes to `address`, which may be another one now.

        Raises:
            CharstreamError: nothing can be done, or the time is over.
        """
        if self.task.is_answered:
            return 0.0
        if not self._failures:
            self._give_up_at = now + self._patience
        self._failures.append(error)
        if isinstance(error, Unavailable):
            self.task.note_loss(is_taken=error.is_taken)
        if self._deadline is not None and now >= self._deadline and not isinstance(error, DeadlineExceeded):
            error = DeadlineExceeded(f"the timeout passed before the end ({error})")
        if not (self._resume and self.task.can_resume and self._is_worth_a_retry(error)):
            raise self.task.attach_progress(error if self.task.has_begun else self._most_telling(error), now)
        wait = self._wait(error)
        is_again = len(self._failures) > self._addresses or self.task.has_begun
        if is_again and now + wait > self._give_up_at:
            raise self.task.attach_progress(error, now)
        self.address = (self.address + 1) % self._addresses
        return wait if self._deadline is None else min(wait, self._deadline - now)

    def _is_worth_a_retry(self, error: CharstreamError) -> bool:
        match error:
            case InvalidRequest(field="resume_token"):
                return self.task.drop_token()
            case Unavailable() | Overloaded() | WrongReplica() if not self.task.has_begun:
                is_alone = isinstance(error, Overloaded) or (isinstance(error, Unavailable) and not error.is_somebody)
                return len(self._failures) < self._addresses + (0 if is_alone else AGAIN)
            case WrongReplica():
                return self._may_fit_elsewhere()
            case Overloaded():
                return error.retry_after is not None
            case _:
                return isinstance(error, Unavailable)

    def _may_fit_elsewhere(self) -> bool:
        """Return True until all replicas have refused; then only if dropping the token changes the request."""
        enough = self._addresses + (AGAIN_AT_ONE_ADDRESS if self._addresses == 1 else AGAIN)
        last = self._failures[-enough:]
        if len(last) < enough or not all(isinstance(failure, WrongReplica) for failure in last):
            return True
        self._failures.clear()
        return self.task.drop_token()

    def _most_telling(self, error: CharstreamError) -> CharstreamError:
        """Prefer the error of a server that answered, such as a busy one, to that of an address that didn't."""
        if not isinstance(error, Unavailable):
            return error
        return next((failure for failure in self._failures if not isinstance(failure, Unavailable)), error)

    def _wait(self, error: CharstreamError) -> float:
        """Return 0 until each address was asked, then a random wait whose limit doubles: other clients wait too."""
        beyond = len(self._failures) - self._addresses
        if beyond < 0 or isinstance(error, InvalidRequest):
            return 0.0
        wait = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(beyond, DOUBLINGS)))
        return wait + (error.retry_after or 0.0) if isinstance(error, Overloaded) else wait
