"""What to do when a call fails: ask again, where and when, or give up. No channel and no clock is in here."""

import random
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from client.errors import (
    CharstreamError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    Unavailable,
    WrongReplica,
)

__all__ = ["Question", "Recovery", "Task"]

FIRST_WAIT, LONGEST_WAIT, DOUBLINGS = 0.05, 2.0, 6  # seconds

Item_co = TypeVar("Item_co", covariant=True)


class Task(Protocol[Item_co]):
    """What is wanted: it may take several requests. It keeps what came, and knows what is missing."""

    @property
    def done(self) -> bool:
        """Everything has come."""

    @property
    def answered(self) -> bool:
        """All that the last message asked for has come."""

    @property
    def begun(self) -> bool:
        """Something has come: there is a server, and there is something to lose."""

    @property
    def resumable(self) -> bool:
        """What is missing can be asked for alone."""

    def message(self, now: float) -> Any:
        """What to send next."""

    def take(self, response: Any) -> Sequence[Item_co]:
        """Keeps one message; returns what is new in it for the caller."""

    def without_token(self) -> bool:
        """Whether `message` is another one now: without the resume token, which was refused."""

    def explained(self, error: CharstreamError, now: float) -> CharstreamError:
        """The error with what had come before it."""


class Question:
    """A task with one answer, which comes as a whole or not at all."""

    done = answered = begun = False
    resumable = True

    def __init__(self, message: Any) -> None:
        self._message = message

    def message(self, now: float) -> Any:
        return self._message

    def take(self, response: Any) -> Sequence[Any]:
        return (response,)

    def without_token(self) -> bool:
        return False

    def explained(self, error: CharstreamError, now: float) -> CharstreamError:
        return error


T = TypeVar("T")


class Recovery(Generic[T]):
    """Decides for one task. The caller sends `task.message` to the server number `address`, reports, and waits.

    Before anything came each address is asked once, without waiting: a wrong one shall not hang. After that the next
    address is asked at once, and when all were, after waits that double, for `patience` seconds without anything new.

    Args:
        deadline: of the caller, by the clock that `now` is of.
        resume: False: the first failure is the end.
    """

    def __init__(
        self, task: Task[T], addresses: int, first: int, *, patience: float, deadline: float | None, resume: bool
    ) -> None:
        self.task = task
        self.address = first
        self._addresses, self._patience, self._deadline, self._resume = addresses, patience, deadline, resume
        self._failures: list[CharstreamError] = []  # since something new came
        self._give_up_at = 0.0

    def seconds_left(self, now: float) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - now)

    def take(self, response: Any) -> Sequence[T]:
        items = self.task.take(response)
        if items:
            self._failures.clear()
        return items

    def ended(self, now: float) -> float:
        """The call is over, as if all were well. Returns as `failed` does."""
        return self.failed(Unavailable("the stream ended without saying how: is something in between cutting it?"), now)

    def failed(self, error: CharstreamError, now: float) -> float:
        """Returns the seconds to wait before the next message is sent to `address`; it may be another one now.

        Raises:
            CharstreamError: nothing more is to be done, or the time is over.
        """
        if self.task.answered:
            return 0.0
        if not self._failures:
            self._give_up_at = now + self._patience
        self._failures.append(error)
        if self._deadline is not None and now >= self._deadline and not isinstance(error, DeadlineExceeded):
            error = DeadlineExceeded(f"the timeout passed before the end ({error})")
        if not (self._resume and self.task.resumable and self._may_pass(error)):
            raise self.given_up(error if self.task.begun else self._most_telling(error), now)
        wait = self._wait(error)
        if self.task.begun and now + wait > self._give_up_at:
            raise self.given_up(error, now)
        self.address = (self.address + 1) % self._addresses
        return wait if self._deadline is None else min(wait, self._deadline - now)

    def given_up(self, error: CharstreamError, now: float) -> CharstreamError:
        return self.task.explained(error, now)

    def _may_pass(self, error: CharstreamError) -> bool:
        match error:
            case InvalidRequest(field="resume_token"):
                return self.task.without_token()
            case Unavailable() | Overloaded() | WrongReplica() if not self.task.begun:
                return len(self._failures) < self._addresses
            case WrongReplica():
                return self._another_replica_may()
            case Overloaded():
                return error.retry_after is not None
            case _:
                return isinstance(error, Unavailable)

    def _another_replica_may(self) -> bool:
        """Until all have refused; then without the token, in case it was only that."""
        last = self._failures[-self._addresses :]
        if len(last) < self._addresses or not all(isinstance(failure, WrongReplica) for failure in last):
            return True
        self._failures.clear()
        return self.task.without_token()

    def _most_telling(self, error: CharstreamError) -> CharstreamError:
        """Of what the addresses said at first contact: a busy server is better news than a dead one."""
        if not isinstance(error, Unavailable):
            return error
        return next((failure for failure in self._failures if not isinstance(failure, Unavailable)), error)

    def _wait(self, error: CharstreamError) -> float:
        """None before each address was asked; then up to twice as long each time, at random: others wait too."""
        beyond = len(self._failures) - self._addresses
        if beyond < 0 or isinstance(error, InvalidRequest):
            return 0.0
        wait = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(beyond, DOUBLINGS)))
        return wait + (error.retry_after or 0.0) if isinstance(error, Overloaded) else wait
