"""Two calls for one text, for the blocking client: the one that answers first goes on."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from .policy import Hedging

__all__ = ["Race"]


class Race:
    """Stands for the call of a text: iterate over its responses. Any thread may cancel it.

    Args:
        ask: makes a call; True: at the second server.
        note_winner: is told whether it is the second one, if it was asked.
    """

    def __init__(self, ask: Callable[[bool], Any], hedging: Hedging, note_winner: Callable[[bool], None]) -> None:
        self._ask, self._hedging, self._note_winner = ask, hedging, note_winner
        self._began, self._lock, self._is_cancelled = time.monotonic(), threading.Lock(), False
        self._answers: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
        self._calls = [ask(False)]

    def cancel(self) -> None:
        with self._lock:
            self._is_cancelled = True
            for call in self._calls:
                call.cancel()

    def __iter__(self) -> Iterator[Any]:
        """Yield the responses of the call that answers first. Raises as a call does."""
        responses = [iter(self._calls[0])]
        delay = self._hedging.delay
        number, first, error = self._first_answer(responses, delay)
        if isinstance(error, StopIteration):
            return
        if error:
            raise error
        self._hedging.note_first(time.monotonic() - self._began)
        yield first
        yield from responses[number]

    def _first_answer(self, responses: list[Any], delay: float | None) -> tuple[int, Any, BaseException | None]:
        if delay is None:
            return self._read(0, responses[0])
        self._read_aside(0, responses[0])
        try:
            return self._answers.get(timeout=max(0.0, self._began + delay - time.monotonic()))
        except queue.Empty:
            pass
        if not self._begin_second(responses):
            return self._answers.get()
        number, first, error = self._answers.get()
        if error:  # the other one may still answer; if not, the first server's error tells more
            failed, (number, first, error) = (number, first, error), self._answers.get()
            if error:
                return min((failed, (number, first, error)), key=lambda answer: answer[0])
        self._note_winner(number == 1)
        self._calls[1 - number].cancel()
        return number, first, error

    def _begin_second(self, responses: list[Any]) -> bool:
        with self._lock:
            if self._is_cancelled or not self._hedging.spend():
                return False
            self._calls.append(self._ask(True))
        responses.append(iter(self._calls[1]))
        self._read_aside(1, responses[1])
        return True

    def _read_aside(self, number: int, responses: Iterator[Any]) -> None:
        threading.Thread(target=lambda: self._answers.put(self._read(number, responses)), daemon=True).start()

    def _read(self, number: int, responses: Iterator[Any]) -> tuple[int, Any, BaseException | None]:
        try:
            return number, next(responses), None
        except BaseException as error:  # of gRPC, or the end: for whoever iterates
            return number, None, error
