"""Several continuations of one prompt: asked for in one call, and after a break one by one."""

from collections.abc import Sequence

from client.errors import CharstreamError, ServerError
from client.generation_task import Text
from client.options import check_range
from protos import charstream_pb2 as pb

__all__ = ["Texts"]


class Texts:
    """A task of `Recovery`: continuations 0 to n - 1 of `request`, which asks for none by its index."""

    def __init__(self, request: pb.GenerateRequest, n: int) -> None:
        check_range("n", n, 1, 2**32 - 1)
        if request.HasField("continuation"):
            raise ValueError("continuation: it names one text; leave it out where several are asked for")
        self._request = pb.GenerateRequest()
        self._request.CopyFrom(request)
        self._request.n = n
        self.each = [Text(_alone(request, index)) for index in range(n)]
        self._asked: list[Text] = []  # of the request that is being answered

    @property
    def done(self) -> bool:
        return all(text.done for text in self.each)

    @property
    def answered(self) -> bool:
        return all(text.done for text in self._asked)

    @property
    def begun(self) -> bool:
        return any(text.begun for text in self.each)

    @property
    def resumable(self) -> bool:
        return all(text.resumable for text in self.each)

    def message(self, now: float) -> pb.GenerateRequest:
        open_ones = [text for text in self.each if not text.done]
        self._asked = open_ones[:1] if self.begun else open_ones
        messages = [text.message(now) for text in self._asked]
        return messages[0] if self.begun else self._request

    def take(self, response: pb.GenerateResponse) -> Sequence[tuple[int, str]]:
        if response.index >= len(self.each):
            raise ServerError(f"a continuation {response.index} came, asked for were {len(self.each)}")
        return [(response.index, text) for text in self.each[response.index].take(response)]

    def without_token(self) -> bool:
        return any(text.without_token() for text in self._asked)

    def explained(self, error: CharstreamError, now: float) -> CharstreamError:
        """The texts are the stream's: there is no one text to go on with."""
        return error


def _alone(request: pb.GenerateRequest, index: int) -> pb.GenerateRequest:
    alone = pb.GenerateRequest()
    alone.CopyFrom(request)
    alone.continuation = index
    return alone
