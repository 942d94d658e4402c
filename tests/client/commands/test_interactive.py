"""A conversation: each turn goes on from the one before, and what is taken back has never been."""

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from client import Client
from client.commands.conversation import Conversation, Turn
from server.engine.messages import Repeat
from tests.client.commands.test_commands import command
from tests.client.replica import Fault, Replica, expected_text
from tests.client.scripted import serving
from tests.conftest import Charstream, ServerProcess
from tests.server.engine.test_repeats import end_by_definition

SECONDS = 30
Talk = Callable[..., str]


def text(server: ServerProcess, prompt: str, max_chars: int, seed: int = 7) -> str:
    with Client(server.address) as client:
        return client.stream(prompt, max_chars=max_chars, seed=seed).read()


@pytest.fixture
def talk(charstream: Charstream, server: ServerProcess, tmp_path: Path) -> Talk:
    """Pipe lines into a conversation of 30 characters a turn with seed 7; return its whole text at the end."""

    def run(*lines: str, flags: tuple[str, ...] = ()) -> str:
        saved = tmp_path / "saved"
        stdin = "".join(f"{line}\n" for line in (*lines, f"/save {saved}"))
        flags = ("--host", server.address, "--max-chars", "30", "--seed", "7", *flags)
        done = charstream("stream", "--interactive", *flags, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, "")
        return saved.read_text()

    return run


def test_turns_are_one_text(talk: Talk, server: ServerProcess) -> None:
    whole = text(server, "ROMEO:", 80)
    assert talk("ROMEO:", "/more 20", "") == "ROMEO:" + whole
    first = "ROMEO:" + whole[:30]
    assert talk("ROMEO:", r"\nJULIET:") == first + "\nJULIET:" + text(server, first + "\nJULIET:", 30)
    assert talk("//quit").startswith("/quit")


def test_only_the_model_is_printed_where_nobody_types(charstream: Charstream, server: ServerProcess) -> None:
    flags = ("--host", server.address, "--max-chars", "30", "--seed", "7", "--banned", r"\n")
    done = charstream("stream", "--interactive", *flags, stdin="ROMEO:\n/more\n/quit\nnot read\n")
    with Client(server.address) as client:
        whole = client.stream("ROMEO:", max_chars=60, seed=7, banned="\n").read()
    assert done.stdout == f"{whole[:30]}\n{whole[30:]}\n"


def test_a_prompt_is_the_first_turn(charstream: Charstream, server: ServerProcess) -> None:
    flags = ("--host", server.address, "--max-chars", "30", "--seed", "7")
    done = charstream("stream", "ROMEO:", "--interactive", *flags, stdin="")
    assert done.stdout == "ROMEO:" + text(server, "ROMEO:", 30) + "\n"


def test_an_undone_turn_has_never_been(talk: Talk) -> None:
    assert talk("ROMEO:", "Where?", "/undo", "/more") == talk("ROMEO:", "/more")
    assert talk("ROMEO:", "/undo") == ""
    assert talk("ROMEO:", "/undo", "JULIET:") == talk("JULIET:")


def test_again_is_another_text_that_its_seed_gives(talk: Talk, server: ServerProcess) -> None:
    assert talk("ROMEO:", "/again") == "ROMEO:" + text(server, "ROMEO:", 30, seed=8)
    assert talk("ROMEO:", "/again", "/again") == "ROMEO:" + text(server, "ROMEO:", 30, seed=9)
    assert talk("ROMEO:", "/again", "/more") == "ROMEO:" + text(server, "ROMEO:", 60, seed=8), "the seed stays"
    assert len(talk("/more 50", "/again")) == 50


def test_what_is_set_holds_from_then_on_and_can_be_taken_away(talk: Talk, server: ServerProcess) -> None:
    greedy = talk("ROMEO:", flags=("--greedy",))
    assert talk("/set temperature 0", "ROMEO:") == greedy
    assert talk("/set top-k 1", "ROMEO:") == greedy
    assert len(talk("/set max_chars 5", "ROMEO:")) == 11
    first = "ROMEO:" + text(server, "ROMEO:", 30)
    with Client(server.address) as client:
        second = client.stream(first, max_chars=1, top_k=1, seed=7).read()
    rest = text(server, first + second, 10)
    assert talk("ROMEO:", "/set top_k 1", "/more 1", "/set top_k off", "/more 10") == first + second + rest


def test_more_goes_beyond_a_stop_string(talk: Talk, server: ServerProcess) -> None:
    line, rest = text(server, "ROMEO:", 500).split("\n")[:2]
    flags = ("--stop", r"\n", "--max-chars", "500")
    assert talk("ROMEO:", flags=flags) == "ROMEO:" + line
    assert talk("ROMEO:", "/more", flags=flags) == f"ROMEO:{line}\n{rest}"


def test_more_goes_beyond_a_repetition(talk: Talk, server: ServerProcess) -> None:
    """A new turn does not end at its first character because the text before it repeats itself."""
    with Client(server.address) as client:
        whole = client.stream("ROMEO:", max_chars=500, seed=7, temperature=0).read()
    flags = ("--stop-on-repeat", "1-26,3", "--max-chars", "500", "--greedy")
    first = end_by_definition(whole, Repeat(26, 3))[0]
    assert talk("ROMEO:", flags=flags) == "ROMEO:" + whole[:first]
    second = 1 + end_by_definition(whole[first + 1 :], Repeat(26, 3))[0]
    assert talk("ROMEO:", "/more", flags=flags) == "ROMEO:" + whole[: first + second]


def test_a_conversation_goes_on_from_a_token(
    charstream: Charstream,
    talk: Talk,
    server: ServerProcess,
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    flags = ("--host", server.address, "--max-chars", "30", "--seed", "7", "--token-out", str(token))
    charstream("stream", "ROMEO:", *flags)
    assert talk("/more", flags=("--token-in", str(token))) == text(server, "ROMEO:", 60)[30:]


@pytest.mark.parametrize("line", ["/bad", "/set colour red", "/set top_k many", "/more x", "/undo", "/again", "/save"])
def test_what_a_script_does_wrong_ends_it(charstream: Charstream, server: ServerProcess, line: str) -> None:
    done = charstream("stream", "--interactive", "--host", server.address, stdin=f"{line}\n/quit\n")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_token_that_no_server_takes_any_more_costs_only_time(charstream: Charstream) -> None:
    replica = Replica([Fault("unavailable", 10**6), Fault("token refused")])
    with serving(replica.generate) as server:
        flags = ("--host", server.address, "--max-chars", "10", "--seed", "1")
        done = charstream("stream", "--interactive", *flags, stdin="ab\n/more\n")
    whole = expected_text(20, 1, "ab")
    assert (done.returncode, done.stdout) == (0, f"{whole[:10]}\n{whole[10:]}\n")
    assert [request.prompt for request in replica.requests] == ["ab", "", "ab" + whole[:10]]


def test_after_an_interruption_only_what_the_last_token_lacks_is_read_again() -> None:
    beginning = Conversation(seed=7)
    told = beginning.with_turn(Turn("a", "b", b"1", 7)).with_turn(Turn("c", "d", b"", 8))
    assert (told.text, told.place, told.next_seed) == ("abcd", (b"1", "cd"), 8)
    assert (told.without_last_turn().place, told.without_last_turn().next_seed) == ((b"1", ""), 7)
    assert told.without_last_turn().without_last_turn() == beginning
    assert told.without_tokens().place == (b"", "abcd")
    assert Conversation(b"0").with_turn(Turn("a", "b")).place == (b"0", "ab")


@dataclass
class Terminal:
    """A process whose standard streams are a terminal."""

    process: "subprocess.Popen[bytes]"
    screen: int
    shown: str = ""

    def type(self, line: str) -> None:
        os.write(self.screen, line.encode())

    def wait_for(self, pattern: str) -> str:
        """Return what was shown until then, and forget it."""
        end = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.shown[-500:]!r}"
            if select.select([self.screen], [], [], 0.1)[0]:
                self.shown += os.read(self.screen, 65536).decode(errors="replace")
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before


@contextmanager
def terminal(*argv: str) -> Iterator[Terminal]:
    screen, streams = os.openpty()
    environment = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(command(*argv), stdin=streams, stdout=streams, stderr=streams, env=environment) as process:
        os.close(streams)
        try:
            yield Terminal(process, screen)
        finally:
            process.kill()
            os.close(screen)


def test_on_a_terminal_ctrl_c_ends_the_turn_and_keeps_what_came(server: ServerProcess, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    with terminal("stream", "--interactive", "--host", server.address, "--max-chars", "100000", "--seed", "7") as it:
        it.wait_for("> ")
        it.type("ROMEO:\n")
        it.wait_for("[^>]{300}")
        it.process.send_signal(signal.SIGINT)
        it.type(f"/save {saved}\n")
        it.wait_for("characters in")
        first = saved.read_text()
        it.type("/more 20\n")
        it.type(f"/save {saved}\n")
        it.wait_for("characters in")
        second = saved.read_text()
        it.wait_for("> ")  # before it, a terminal takes Ctrl-D for the end of what is typed ahead
        it.type("\x04")
        assert it.process.wait(SECONDS) == 0
    assert 100 < len(first) < 20_000
    assert second == "ROMEO:" + text(server, "ROMEO:", len(second) - 6)
    assert len(second) == len(first) + 20


def test_on_a_terminal_an_error_is_a_line_and_the_text_stays(server: ServerProcess, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    with terminal("stream", "--interactive", "--host", server.address, "--max-chars", "30", "--seed", "7") as it:
        it.type("ROMEO:\n")
        it.type(r"\t" + "\n")
        it.wait_for("not in the vocabulary of tiny")
        it.type("/help\n")
        it.wait_for("ends the model's turn")
        it.wait_for("> ")
        time.sleep(0.2)  # a signal between the prompt and readline's waiting is seen with the next key only
        it.process.send_signal(signal.SIGINT)
        it.wait_for("/quit or Ctrl-D leaves")
        it.type(f"/save {saved}\n")
        it.wait_for("characters in")
        it.type("/quit\n")
        assert it.process.wait(SECONDS) == 0
    assert saved.read_text() == "ROMEO:" + text(server, "ROMEO:", 30)
