"""Where a text that comes in pieces ends by itself: at a stop string, or because it repeats itself."""

from collections.abc import Iterator, Sequence

from server.engine.messages import Reason, Repeat, StopRule

__all__ = ["RepeatFinder", "StopMatcher", "TextEnd"]

# An end of the text as long as this that occurs at some distance is worth a comparison of the whole.
TELLING_CHARS = 16


class TextEnd:
    """Cuts a text at its first stop string or repetition; where both are complete at one character, at the stop string.

    Attributes:
        reason: STOP or REPEAT once the text has ended; None before.
    """

    def __init__(self, rule: StopRule) -> None:
        self._stops = StopMatcher(rule.strings, include=rule.include, skip=rule.skip, tail=rule.tail)
        self._repeats = RepeatFinder(rule.repeat, skip=rule.skip, tail=rule.tail) if rule.repeat else None
        self.reason: Reason | None = None

    @property
    def stop(self) -> str:
        return self._stops.stop

    @property
    def stop_chars_sent(self) -> int:
        return self._stops.stop_chars_sent

    @property
    def repeat_period(self) -> int:
        """The length of the block that is repeated; 0 unless the text ended for that."""
        return self._repeats.period if self._repeats and self.reason is Reason.REPEAT else 0

    def push(self, piece: str, *, sent: bool = False) -> str:
        """Take the next piece, which the reader has already if `sent`; return what can be sent, "" after the end."""
        if self.reason:
            return ""
        size = self._repeats.push(piece) if self._repeats else len(piece)
        text = self._stops.push(piece[:size], sent=sent)
        if self._stops.stop:
            self.reason = Reason.STOP
        elif self._repeats and self._repeats.period:
            self.reason = Reason.REPEAT
            text += self._stops.flush()
        return text

    def flush(self) -> str:
        """Return what was held back, when no more text comes."""
        return self._stops.flush()


class RepeatFinder:
    """Finds the first character at which the end of a text is one block, `repeat.times` times in a row.

    Each character costs a few searches for the last characters in the text before them, one for each class of periods;
    whole blocks are compared only where these are found.

    Args:
        skip: characters, from the first, that do not count.
        tail: text before the first piece that counts, unless characters are skipped.

    Attributes:
        period: the length of the shortest such block, after which no piece may come; 0 if there is none.
    """

    def __init__(self, repeat: Repeat, *, skip: int = 0, tail: str = "") -> None:
        self._times, self._skip = repeat.times, skip
        self._classes = tuple(_period_classes(repeat))
        self._kept = repeat.longest - 1
        self._text = "" if skip else tail[-self._kept :]
        self.period = 0

    def push(self, piece: str) -> int:
        """Take the next piece; return its length up to the character that completes a repetition, or all of it."""
        skipped = min(self._skip, len(piece))
        self._skip -= skipped
        text, known = self._text + piece[skipped:], len(self._text)
        for end in range(known + 1, len(text) + 1):
            self.period = self._period_at(text, end)
            if self.period:
                return skipped + end - known
        self._text = text[-self._kept :]
        return len(piece)

    def _period_at(self, text: str, end: int) -> int:
        for least, most, size in self._classes:
            if end < least * self._times:
                break
            last, farthest = text[end - size : end], max(0, end - most - size)
            found = text.rfind(last, farthest, end - least)
            while found >= 0:
                period = end - size - found
                if self._is_repeated(text, end, period):
                    return period
                found = text.rfind(last, farthest, found + size - 1)
        return 0

    def _is_repeated(self, text: str, end: int, period: int) -> bool:
        """Return whether the text before `end` is a block of `period` characters, `times` times."""
        begin = end - period * self._times
        return begin >= 0 and text[begin + period : end] == text[begin : end - period]


def _period_classes(repeat: Repeat) -> Iterator[tuple[int, int, int]]:
    """Yield the least and greatest period of each class, and how many last characters all its repetitions share.

    A block that is repeated has occurred one period before, so these characters have: the longer they are, the rarer.
    """
    least = repeat.min_period
    while least <= repeat.max_period:
        size = min(least * (repeat.times - 1), TELLING_CHARS)
        most = repeat.max_period if size == TELLING_CHARS else min(repeat.max_period, 2 * least - 1)
        yield least, most, size
        least = most + 1


class StopMatcher:
    """Cuts a text at the stop string that is complete first, as if it were looked for after every character.

    Where two are complete at the same character, the longer one counts. What may be the beginning of a stop string is
    held back, unless the stop string is part of the text.

    Args:
        include: the text ends after the stop string, else before it.
        skip: characters, from the first, that are not searched.
        tail: text that was sent before the first piece, and in which a stop string may have begun.

    Attributes:
        stop: the stop string that is complete, after which no piece may come; "" if none is.
        stop_chars_sent: how many of its characters had been sent before; 0 where it is part of the text.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False, skip: int = 0, tail: str = "") -> None:
        self._stops, self._include, self._skip = tuple(stops), include, skip
        self.stop, self.stop_chars_sent = "", 0
        # What may be the beginning of a stop string, and how many of its characters are sent.
        self._open = tail[self._sendable(tail) :] if not skip else ""
        self._sent = len(self._open)

    @property
    def held_chars(self) -> int:
        """How many characters are held back."""
        return len(self._open) - self._sent

    def push(self, piece: str, *, sent: bool = False) -> str:
        """Take the next piece, which the reader has already if `sent`; return what can be sent."""
        skipped, piece = piece[: self._skip], piece[self._skip :]
        self._skip -= len(skipped)
        text, searched = self._open + piece, len(self._open)
        known = len(text) if sent else self._sent
        ends = [(start + len(stop), start, stop) for stop in self._stops if (start := _find(stop, text, searched)) >= 0]
        if ends:
            end, start, stop = min(ends)
            self._open, self._sent = "", 0
            cut = end if self._include else start
            self.stop, self.stop_chars_sent = stop, max(0, known - cut)
            return ("" if sent else skipped) + text[known:cut]
        keep = self._sendable(text)
        sendable = len(text) if self._include else keep
        self._open = text[keep:]
        self._sent = max(0, max(known, sendable) - keep)
        return ("" if sent else skipped) + text[known:sendable]

    def flush(self) -> str:
        """Return what was held back, when no more text comes."""
        held, self._open, self._sent = self._open[self._sent :], "", 0
        return held

    def _sendable(self, text: str) -> int:
        """Return the place where the longest end of the text begins that is a beginning of a stop string."""
        return min((_open_at(text, stop) for stop in self._stops), default=len(text))


def _find(stop: str, text: str, searched: int) -> int:
    """Return the place where the stop string begins that ends beyond what was searched, or -1."""
    return text.find(stop, max(0, searched - len(stop) + 1))


def _open_at(text: str, stop: str) -> int:
    """Return the place where an end of the text begins that is a beginning of the stop string, or the text's length."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0 and not stop.startswith(text[start:]):
        start = text.find(stop[0], start + 1)
    return start if start >= 0 else len(text)
