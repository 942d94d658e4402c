"""What a stream tells of its task, the same for the blocking and the asyncio one."""

from client.errors import CharstreamError
from client.generation_task import Text
from client.results import Finish, ScoreSummary, Started
from client.score_task import Scores
from client.texts import Texts

__all__ = ["ScoreView", "TextView", "TextsView"]


class TextView:
    """What has come of one text so far."""

    _text: Text

    @property
    def text(self) -> str:
        return self._text.text

    @property
    def raw(self) -> bytes:
        """Of a model of bytes all that it wrote: also what is no whole character, or no text; b"" of others."""
        return self._text.raw

    @property
    def finish(self) -> Finish | None:
        """How the text ended; None until it did, and for ever where it was cancelled."""
        return self._text.finish

    @property
    def started(self) -> Started | None:
        """What the server chose; None until the first characters came."""
        return self._text.started

    @property
    def logprobs(self) -> list[float]:
        """The log-probability of each character of `text`, or byte of `raw`, where asked for."""
        return self._text.logprobs

    @property
    def alternatives(self) -> list[list[tuple[str, float]]]:
        """The most probable characters at the place of each one of `text`, or bytes of `raw`, where asked for."""
        return self._text.alternatives

    @property
    def resumes(self) -> int:
        """How often the rest of the text was asked for again."""
        return self._text.resumes

    @property
    def replayed_chars(self) -> int:
        """Characters that were sent back for that."""
        return self._text.replayed_chars


class TextsView:
    """What has come of several texts so far, by index."""

    _texts: Texts

    @property
    def texts(self) -> list[str]:
        return [text.text for text in self._texts.each]

    @property
    def raws(self) -> list[bytes]:
        """Of a model of bytes all that it wrote."""
        return [text.raw for text in self._texts.each]

    @property
    def finishes(self) -> list[Finish | None]:
        """How each text ended; None for those that didn't yet."""
        return [text.finish for text in self._texts.each]

    @property
    def logprobs(self) -> list[list[float]]:
        """Of each text's characters, where asked for."""
        return [text.logprobs for text in self._texts.each]

    @property
    def alternatives(self) -> list[list[list[tuple[str, float]]]]:
        """Of each place of each text, where asked for."""
        return [text.alternatives for text in self._texts.each]

    @property
    def resumes(self) -> int:
        return sum(text.resumes for text in self._texts.each)

    @property
    def replayed_chars(self) -> int:
        return sum(text.replayed_chars for text in self._texts.each)


class ScoreView:
    """What is known of a score."""

    _scores: Scores

    @property
    def summary(self) -> ScoreSummary | None:
        """Over the whole text; None before its end."""
        return self._scores.summary

    def _end(self) -> ScoreSummary:
        """Raises CharstreamError: it was cancelled before."""
        if self.summary is None:
            raise CharstreamError("the score was cancelled before its end")
        return self.summary
