"""The playground as a person uses it: a real server, and a real browser, which are shared by all tests here."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from benchmarks.playground.browser import AXE, fill, missing_tool, open_browser, open_page, text_of, wait_until, write
from bundle.manifest import TrainingRecord
from bundle.vocabulary import Vocabulary
from bundle.write import write_bundle
from models.network.char_lm import CharLM, ModelConfig
from models.training.checkpoint import Trained
from server.access.authentication import token_line
from tests.conftest import Charstream, ExportOnce, Files, ServerProcess, ready, start_server, stop

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing_tool()), reason=missing_tool() or "")]

TOKEN = "t" * 40
PROMPT = "To be, or not"
# What would be markup, an entity and the end of a script, if anything took it for them; and letters from right to left.
SIGNS = "\n <>&;\"'/=abimgscriptx" + "".join(map(chr, range(0x5D0, 0x5DA)))
STOPPED = "document.querySelector('#stop').disabled"
LONG = 12_000  # characters: they come for longer than it takes to end a server


def count(box: str) -> str:
    """The number of characters that a box shows, as an expression of the page."""
    return f"document.querySelectorAll('{box} .c').length"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def signs_model() -> Trained:
    """An untrained model of characters that a careless page would take for markup."""
    torch.manual_seed(1)
    symbols = "".join(dict.fromkeys(SIGNS))
    model = CharLM(ModelConfig(vocab=len(symbols), layers=1, hidden=16, embedding=8)).eval()
    with torch.no_grad():
        model.head.weight.mul_(10)
    nats = {"carried": 2.0}
    record = TrainingRecord(data="none", data_sha256="0" * 64, parameters=0, steps=0, seconds=0, validation_nats=nats)
    return Trained(model, Vocabulary(symbols), "\n", record)


@dataclass
class Playground:
    """A server of two models that asks for a token, at a port that stays when it starts again."""

    models: Path
    flags: tuple[str, ...]
    port: int = field(default_factory=free_port)
    server: ServerProcess | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        self.server = ready(start_server(self.models, *self.flags, "--http-port", str(self.port)))

    def stop(self) -> None:
        assert self.server
        stop(self.server)

    def complete(self, prompt: str, chars: int, **fields: Any) -> str:
        """The text that the server gives a program for the same request."""
        headers, body = {"Authorization": f"Bearer {TOKEN}"}, {"prompt": prompt, "max_tokens": chars, **fields}
        answer = httpx.post(f"{self.url}v1/completions", json=body, headers=headers, timeout=120)
        text: str = answer.json()["choices"][0]["text"]
        return text


@pytest.fixture(scope="module")
def playground(
    tiny_files: Files, export_once: ExportOnce, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Playground]:
    folder = tmp_path_factory.mktemp("playground")
    write_bundle(folder / "models" / "signs", *export_once(signs_model(), "signs", ["fp32"]))
    write_bundle(folder / "models" / "tiny", *tiny_files)
    (folder / "tokens").write_text(token_line("student", TOKEN))
    flags = ("--precision", "fp32", "--default", "tiny", "--tokens", str(folder / "tokens"))
    made = Playground(folder / "models", flags)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def page(browser: Any, playground: Playground) -> Iterator[Any]:
    """The page with the token; nothing went wrong in it, and nothing was asked of any other origin."""
    with open_page(browser, playground.url, token=TOKEN) as opened:
        faults, asked = list[str](), list[str]()
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("console", lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None)
        opened.on("request", lambda request: asked.append(request.url))
        yield opened
        assert faults == []
        assert [url for url in asked if not url.startswith((playground.url, f"blob:{playground.url}"))] == []


def test_a_text_is_written_stopped_gone_on_with_and_taken_back(page: Any, playground: Playground) -> None:
    fill(page, prompt=PROMPT, temperature=0.7, seed=5)
    assert write(page, 200) == playground.complete(PROMPT, 200, temperature=0.7, seed=5)
    page.click("#more")
    wait_until(page, f"{count('#texts')} === 400 && {STOPPED}")
    whole = playground.complete(PROMPT, 400, temperature=0.7, seed=5)
    assert text_of(page) == whole
    page.click("#undo")
    wait_until(page, f"{count('#texts')} === 200")
    assert text_of(page) == whole[:200]
    page.fill("#length", "90000")
    page.click("#go")
    wait_until(page, f"{count('#texts')} > 700")
    page.keyboard.press("Escape")
    wait_until(page, STOPPED)
    wait_until(page, "document.querySelector('#texts footer').textContent.includes('stopped')")
    stopped = text_of(page)
    assert len(stopped) < 90_000
    assert playground.complete(PROMPT, len(stopped), temperature=0.7, seed=5) == stopped


def test_another_character_is_chosen_and_the_text_goes_on_from_it(page: Any, playground: Playground) -> None:
    fill(page, prompt=PROMPT, temperature=0.7, seed=5)
    before = write(page, 700)
    page.click("#tab-look")
    wait_until(page, f"{count('#look-text')} === 700")
    page.locator("#look-text .c").nth(600).click()
    page.focus("#look-text")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    chosen = page.evaluate("document.activeElement.querySelector('.symbol').textContent")
    chosen = {"␣": " ", "↵": "\n"}.get(chosen, chosen)
    page.keyboard.press("Enter")
    wait_until(page, f"{STOPPED} && {count('#look-text')} === 1300")
    given = before[:599] + chosen
    assert chosen != before[599]
    expected = given + playground.complete(PROMPT + given, 700, temperature=0.7, seed=5)
    assert text_of(page, "#look-text") == expected


def test_two_models_write_side_by_side_and_units_and_bars_show_what_they_do(page: Any, playground: Playground) -> None:
    fill(page, prompt="a", temperature=1, length=80)
    page.click("#tab-learn")
    page.select_option("#pair-a", "tiny")
    page.select_option("#pair-b", "signs")
    page.click("#pair-go")
    wait_until(page, "document.querySelector('#pair-about').textContent.includes('bits per character')")
    for number, name in enumerate(("tiny", "signs"), start=1):
        shown = text_of(page, f"#pair-texts > :nth-child({number}) .text")
        assert shown == playground.complete("a", 80, model=name, temperature=1, seed=1)
    page.fill("#l-top-k", "3")
    wait_until(page, "document.querySelectorAll('#chance .bar:not(.cut)').length === 3")
    page.fill("#context", PROMPT * 3)
    wait_until(page, "!document.querySelector('#memory-go').disabled")
    page.click("#memory-go")
    wait_until(page, "document.querySelector('#memory-table').textContent.includes('all 39')")
    page.click("#tab-write")
    page.select_option("#columns", "2")
    fill(page, seed=9)
    write(page, 60)
    wait_until(page, f"{count('#texts')} === 120")
    for index in range(2):
        fields = {"temperature": 1, "seed": 9, "charstream": {"continuation": index}}
        assert text_of(page, f"#texts > :nth-child({index + 1}) .text") == playground.complete("a", 60, **fields)
    page.click("#tab-look")
    page.click("#read-units")
    wait_until(page, "document.querySelectorAll('.strip').length === 12")
    page.click("#tab-know")
    wait_until(page, "document.querySelector('#load').textContent.includes('0 of 1024')")
    assert "LSTM, 2 × 64" in page.inner_text("#model-figures")


def test_a_link_brings_the_same_text_in_another_profile_which_is_asked_for_a_token(
    page: Any, browser: Any, playground: Playground
) -> None:
    fill(page, prompt=PROMPT, temperature=0.6, top_p=0.9, seed=2**64 - 1)
    written = write(page, 150)
    page.click("#tab-take")
    link = page.input_value("#link")
    curl = page.inner_text("#code")
    assert json.loads(re.findall(r"-d '(.*)'$", curl)[0])["seed"] == 2**64 - 1
    context = browser.new_context()
    try:
        other = context.new_page()
        other.goto(link)
        other.wait_for_selector("#ask[open]")
        other.fill("#token", "wrong" * 8)
        other.keyboard.press("Enter")
        wait_until(other, "document.querySelector('#ask-why').textContent.includes('refused')")
        other.fill("#token", TOKEN)
        other.keyboard.press("Enter")
        wait_until(other, f"{count('#texts')} === 150")
        assert text_of(other) == written
        assert other.evaluate("[localStorage.length, document.cookie, document.body.innerHTML.includes('ttttt')]") == [
            0,
            "",
            False,
        ]
        other.goto(playground.url)
        other.wait_for_selector("body[data-ready]")  # the tab has it
        another = context.new_page()
        another.goto(playground.url)
        another.wait_for_selector("#ask[open]")  # and no other tab
    finally:
        context.close()


def test_a_model_of_markup_and_of_letters_from_right_to_left_is_text(page: Any, playground: Playground) -> None:
    page.select_option("#model", "signs")
    prompt = "<img src=x>&amp;"
    prompt = "".join(char for char in prompt if char in SIGNS)
    fill(page, prompt=prompt, temperature=1, seed=3)
    elements = "document.querySelectorAll('.text img, .text script, .text b, .text a').length"
    assert write(page, 500) == playground.complete(prompt, 500, model="signs", temperature=1, seed=3)
    assert page.inner_text("#texts .p") == prompt
    page.click("#tab-look")
    page.locator("#look-text .c").first.click()
    page.click("#tab-take")
    assert page.evaluate(elements) == 0
    assert prompt in page.inner_text("#take-text")


def test_a_server_that_is_killed_and_starts_again_ends_the_text_all_the_same(page: Any, playground: Playground) -> None:
    fill(page, prompt=PROMPT, temperature=0.9, seed=11, length=LONG)
    page.uncheck("#surprise")
    page.click("#go")
    wait_until(page, f"{count('#texts')} > 500")
    playground.stop()
    wait_until(page, "document.querySelector('#texts footer').textContent.includes('goes on by itself')")
    playground.start()
    wait_until(page, STOPPED, seconds=120)
    again = page.query_selector("#texts footer button")
    if again:  # on a busy machine the start may outlast the page's patience
        again.click()
    wait_until(page, f"{count('#texts')} === {LONG}", seconds=120)
    assert again or "went on after 1 break" in page.inner_text("#texts footer")
    assert text_of(page) == playground.complete(PROMPT, LONG, temperature=0.9, seed=11)


def test_the_page_has_the_characters_surprises_and_alternatives_of_the_command(
    page: Any, playground: Playground, charstream: Charstream, tmp_path: Path
) -> None:
    fill(page, prompt=PROMPT, temperature=1, seed=4)
    write(page, 120)
    page.click("#tab-take")
    with page.expect_download() as download:
        page.click("#save-json")
    download.value.save_as(tmp_path / "text.json")
    saved = json.loads((tmp_path / "text.json").read_text())
    (tmp_path / "token").write_text(TOKEN)
    assert playground.server
    flags = ("--seed", 4, "--max-chars", 120, "--temperature", 1, "--logprobs", 8, "--json")
    place = ("--host", playground.server.address, "--token-file", tmp_path / "token")
    done = charstream("stream", *flags, *place, PROMPT)
    assert done.returncode == 0, done.stderr
    chunks = [json.loads(line) for line in done.stdout.splitlines()][:-1]
    assert saved["text"] == "".join(chunk["text"] for chunk in chunks)
    assert saved["logprobs"] == pytest.approx([value for chunk in chunks for value in chunk["logprobs"]])
    assert saved["alternatives"] == [place for chunk in chunks for place in chunk["alternatives"]]


@contextmanager
def behind_a_prefix(port: int, prefix: str) -> Iterator[str]:
    """A proxy that takes the prefix off the paths of requests, and closes each connection."""
    listening = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        # A browser may leave at any time.
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", port)) as server:
            head = client.recv(65_536)
            head = head.replace(f" {prefix}/".encode(), b" /", 1).replace(b"keep-alive", b"close", 1)
            server.sendall(head)
            pump(server, client)

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}{prefix}/"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def test_the_page_works_behind_a_prefix(browser: Any, playground: Playground) -> None:
    with (
        behind_a_prefix(playground.port, "/models/play") as url,
        open_page(browser, url, token=TOKEN) as page,
    ):
        fill(page, prompt=PROMPT, temperature=1, seed=4)
        assert write(page, 60) == playground.complete(PROMPT, 60, temperature=1, seed=4)
        page.click("#tab-take")
        assert page.input_value("#link").startswith(f"{url}#model=tiny%401")


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there: make browser")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_any_panel(browser: Any, playground: Playground, theme: str) -> None:
    with open_page(browser, playground.url, token=TOKEN, color_scheme=theme) as page:
        page.evaluate(AXE.read_text())
        fill(page, prompt=PROMPT, seed=4)
        write(page, 150)
        found = {}
        for name in ("write", "look", "learn", "know", "take"):
            page.click(f"#tab-{name}")
            if name == "look":
                page.locator("#look-text .c").nth(20).click()
                page.click("#read-units")
                page.wait_for_selector(".strip")
            if name == "learn":
                page.wait_for_selector("#chance .bar")
            if name == "know":
                page.wait_for_selector("#card table")
            done = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            found[name] = [(one["id"], [node["html"][:150] for node in one["nodes"][:3]]) for one in done["violations"]]
        assert {name: faults for name, faults in found.items() if faults} == {}
