"""What comes over the network is whole and right, or refused; against a real HTTP server."""

import hashlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from models.data import corpus, download
from models.data.corpus import open_corpus
from models.data.text_files import CorpusError

TEXT = b"To be, or not to be, that is the question.\n" * 30
DIGEST = hashlib.sha256(TEXT).hexdigest()


class Answer(NamedTuple):
    body: bytes
    length: int | str = len(TEXT)
    status: int = 200
    location: str = ""


WHOLE, CUT, WRONG = Answer(TEXT), Answer(TEXT[:500]), Answer(b"x" * len(TEXT))


class Server(ThreadingHTTPServer):
    """Gives the answers one after another, the last one for ever; counts the requests."""

    daemon_threads = True
    answers: list[Answer]
    requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/input.txt"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        answer = self.server.answers[min(self.server.requests, len(self.server.answers) - 1)]
        self.server.requests += 1
        self.send_response(answer.status)
        self.send_header("Content-Length", str(answer.length))
        if answer.location:
            self.send_header("Location", answer.location)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_interrupted_download_is_fetched_again(server: Server, cache: Path) -> None:
    server.answers = [CUT, WHOLE]
    assert open_corpus(server.url).sha256 == DIGEST
    assert server.requests == 2


def test_a_download_that_is_always_interrupted_is_refused_and_leaves_nothing(server: Server, cache: Path) -> None:
    server.answers = [CUT]
    with pytest.raises(CorpusError, match=r"the connection ended after 500 of 1,290 bytes"):
        open_corpus(server.url)
    assert not list(cache.glob("*"))


def test_a_corrupted_download_is_fetched_again_where_the_sha256_is_known(server: Server) -> None:
    server.answers = [WRONG, WHOLE]
    file = io.BytesIO()
    download.download(server.url, file, DIGEST)
    assert file.getvalue() == TEXT


def test_an_absent_file_is_not_asked_for_again(server: Server, cache: Path) -> None:
    server.answers = [Answer(b"", 0, 404)]
    with pytest.raises(CorpusError, match="the server answers 404"):
        open_corpus(server.url)
    assert server.requests == 1


def test_the_second_time_comes_from_the_cache(server: Server, cache: Path) -> None:
    server.answers = [WHOLE]
    assert open_corpus(server.url).sha256 == open_corpus(server.url).sha256 == DIGEST
    assert server.requests == 1


@pytest.mark.parametrize("damage", [TEXT[:-1], b"", TEXT.replace(b"question", b"answer!!")])
def test_a_damaged_cache_entry_is_fetched_again(server: Server, cache: Path, damage: bytes) -> None:
    server.answers = [WHOLE]
    corpus = open_corpus(server.url)
    corpus.path.write_bytes(damage)
    assert open_corpus(server.url).sha256 == DIGEST
    assert server.requests == 2


def test_tinyshakespeare_says_how_to_go_on_without_it(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "TINYSHAKESPEARE_URL", server.url)
    server.answers = [WHOLE]
    with pytest.raises(CorpusError, match=r"expected 86c4e6aa9db7.*give the file's path instead of the name") as error:
        open_corpus("tinyshakespeare")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(TEXT, "abc"), "the server says Content-Length: abc"),
        (Answer(b"", 0, 302, "/input.txt"), "the server answers 302 .* infinite loop"),
    ],
)
def test_an_answer_that_is_no_text_is_refused_in_one_line(
    server: Server, cache: Path, answer: Answer, reason: str
) -> None:
    server.answers = [answer]
    with pytest.raises(CorpusError, match=reason) as error:
        open_corpus(server.url)
    assert "\n" not in str(error.value)


def test_an_address_may_have_any_characters_and_its_scheme_capitals(server: Server, cache: Path) -> None:
    server.answers = [WHOLE]
    url = server.url.replace("http", "HTTP").replace("input", "\u00e9 t\u00e9")
    assert open_corpus(url).sha256 == DIGEST
