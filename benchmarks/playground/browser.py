"""A headless Chromium and its pages, for tests, pictures and measurements; `make browser` brings what it needs."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "AXE",
    "PORT",
    "WEB",
    "fill",
    "missing_tool",
    "open_browser",
    "open_page",
    "text_of",
    "wait_until",
    "write",
]

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
AXE = Path(__file__).parents[2] / ".tools" / "axe-core" / "axe.min.js"
SECONDS = 60.0
# The flags of a server with the page, and where its log says that the page is.
PORT, WEB = ("--http-port", "0"), r"HTTP on ([\w.:[\]-]+)[\"\s]"


def missing_tool() -> str:
    """Return what is missing for a browser, or ""."""
    try:
        import playwright  # noqa: F401
    except ModuleNotFoundError:
        return "playwright is not installed: make browser"
    return "" if CHROMIUM else "no Chromium is installed: apt-get install chromium"


@contextmanager
def open_browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Its own sandbox needs rights that containers often lack; it shows pages of this machine only.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Any, url: str, *, token: str = "", **options: Any) -> Iterator[Any]:
    """Open the playground in a profile of its own, and wait until it knows the models."""
    context = browser.new_context(**options)
    context.set_default_timeout(SECONDS * 1000)
    page = context.new_page()
    if token:
        page.add_init_script(f"sessionStorage.setItem('charstream.token', '{token}')")
    try:
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        yield page
    finally:
        context.close()


def wait_until(page: Any, condition: str, seconds: float = SECONDS) -> None:
    """Wait until an expression is true. (Playwright's own way evaluates in the page, whose policy forbids it.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"not true after {seconds:g} s: {condition}"
        time.sleep(0.02)


def fill(page: Any, **values: object) -> None:
    """Fill fields of Write by their ids, in which `_` stands for `-`; narrow pages fold the settings away."""
    page.evaluate("document.querySelector('#settings').open = true")
    for name, value in values.items():
        page.fill(f"#{name.replace('_', '-')}", str(value))
    page.evaluate("document.querySelector('#settings').open = matchMedia('(min-width: 861px)').matches")


def write(page: Any, chars: int, seconds: float = SECONDS) -> str:
    """Press Write, and return the text of `chars` characters when it is there."""
    fill(page, length=chars)
    page.click("#go")
    done = "document.querySelector('#stop').disabled"
    wait_until(page, f"{done} && document.querySelectorAll('#texts .c').length >= {chars}", seconds)
    return text_of(page)


def text_of(page: Any, box: str = "#texts .text") -> str:
    """Return the characters that a text on the page shows, without its prompt."""
    # A cell that ends a line has no text: what it stands for is the line's end.
    show = "cell => cell.classList.contains('nl') ? '\\n' : cell.textContent"
    found: str = page.evaluate(f"[...document.querySelector('{box}').querySelectorAll('.c')].map({show}).join('')")
    return found
