"""Take pictures of the playground with real models.

    python -m benchmarks.playground.screenshots [--models bundles] [--out docs/pictures] [--questions] [--panels FOLDER]

Two for README; with --questions also those of docs/playground.md, for which the folder has to have a model and, as
NAME-first, the first checkpoint of its run (charstream export RUN --with-first); with --panels every panel in light,
dark and at 390 pixels, to be looked at.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field

from benchmarks.playground.browser import PORT, WEB, fill, missing_tool, open_browser, open_page, wait_until, write
from benchmarks.support.servers import serving
from charstream.settings import Settings, fail, parse

COMMAND = "python -m benchmarks.playground.screenshots"
WIDE, PHONE = {"width": 1180, "height": 700}, {"width": 390, "height": 844}
PANELS = ("write", "look", "learn", "know", "take")
THEMES: dict[str, dict[str, Any]] = {
    "light": {"viewport": WIDE},
    "dark": {"viewport": WIDE, "color_scheme": "dark"},
    "phone": {"viewport": PHONE},
}
COLOURS = 160  # of a picture: few enough for a small file

# Brackets within brackets, for the question when a model closes them.
CODE = """def total(prices, taxes=(0.1, 0.2)):
    rows = [(name, round(price * (1 + sum(taxes)), 2)) for name, price in prices.items()]
    return {"rows": rows, "sum": sum(price for name, price in rows)}

print(total({"tea": 2.5, "bread": (3 + 1) * 0.9}, taxes=(0.05, 0.07)))
"""


class ScreenshotSettings(Settings):
    """Take pictures of the playground."""

    models: Path = Field(Path("bundles"), description="a folder of bundles, or one bundle")
    model: str = Field("", description="the model to show (default: the server's default)")
    prompt: str = Field("", description="the beginning of its texts (default: the first that its card has)")
    out: Path = Field(Path("docs/pictures"), description="where the pictures go")
    questions: bool = Field(False, description="also those of docs/playground.md")
    panels: Path | None = Field(None, description="a folder for pictures of every panel")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ScreenshotSettings, argv, command=COMMAND)
    if missing := missing_tool():
        fail(COMMAND, missing, code=1)
    settings.out.mkdir(parents=True, exist_ok=True)
    with serving(settings.models, *PORT) as server, open_browser() as browser:
        url = f"http://{server.wait_for(WEB)}/"
        _readme(browser, url, settings)
        if settings.questions:
            _questions(browser, url, settings)
        if settings.panels:
            settings.panels.mkdir(parents=True, exist_ok=True)
            for name, options in THEMES.items():
                _panels(browser, url, settings, name, options)
    return 0


def _begin(page: Any, settings: ScreenshotSettings) -> None:
    if settings.model:
        page.select_option("#model", settings.model)
        page.evaluate("document.querySelector('#model').dispatchEvent(new Event('change'))")
    if settings.prompt:
        page.fill("#prompt", settings.prompt.replace("\\n", "\n"))


def _readme(browser: Any, url: str, settings: ScreenshotSettings) -> None:
    with open_page(browser, url, viewport=WIDE) as page:
        _begin(page, settings)
        page.select_option("#columns", "2")
        fill(page, seed=7, temperature=0.7)
        write(page, 420)
        _shoot(page, settings.out / "playground-write.png")
    with open_page(browser, url, viewport=WIDE, color_scheme="dark") as page:
        _begin(page, settings)
        fill(page, seed=7, temperature=0.7)
        write(page, 420)
        page.click("#tab-look")
        _place(page, 60)
        page.click("#read-units")
        page.wait_for_selector(".strip")
        page.select_option("#colour-by", "surprise")
        _shoot(page, settings.out / "playground-look.png")


def _place(page: Any, number: int) -> None:
    wait_until(page, f"document.querySelectorAll('#look-text .c').length > {number}")
    page.locator("#look-text .c").nth(number).click()


def _questions(browser: Any, url: str, settings: ScreenshotSettings) -> None:
    """Take the pictures of the five questions of docs/playground.md."""
    with open_page(browser, url, viewport={"width": 1180, "height": 900}) as page:
        _begin(page, settings)
        fill(page, seed=1, temperature=0)
        write(page, 500)
        _shoot(page, settings.out / "question-repeats.png", "#panel-write .stage")
        fill(page, seed=3, temperature=0.7)
        write(page, 700)
        page.click("#tab-look")
        page.fill("#score-text", CODE)
        page.click("#score")
        wait_until(page, f"document.querySelector('#look-mean').textContent.includes('{len(CODE)} characters')")
        _place(page, CODE.index(")):"))
        page.select_option("#find", "brackets")
        page.select_option("#state", "c0")
        wait_until(page, "document.querySelectorAll('.strip').length > 0")
        page.locator(".strip button").first.click()
        _shoot(page, settings.out / "question-bracket.png", "#panel-look")
        page.click("#tab-learn")
        page.wait_for_selector("#chance .bar")
        page.click("#memory-go")
        wait_until(page, "!document.querySelector('#memory-go').disabled")
        _shoot(page, settings.out / "question-memory.png", "#panel-learn > :nth-child(2)")
        page.fill("#context", CODE.partition("(")[0][:4])
        page.fill("#l-top-p", "0.8")
        wait_until(page, "document.querySelectorAll('#chance .bar:not(.cut)').length > 3")
        _shoot(page, settings.out / "question-top-p.png", "#panel-learn > :nth-child(1)")
        names = page.evaluate("[...document.querySelectorAll('#pair-a option')].map(option => option.value)")
        name = page.input_value("#model")
        if f"{name}-first" not in names:
            print(f"no picture of what training changed: no {name}-first is among {', '.join(names)}", file=sys.stderr)
            return
        page.select_option("#pair-a", f"{name}-first")
        page.select_option("#pair-b", name)
        page.evaluate("document.querySelector('#length').value = 300")
        page.click("#pair-go")
        wait_until(page, "document.querySelector('#pair-about').textContent.includes('bits per character')")
        _shoot(page, settings.out / "question-training.png", "#panel-learn > :nth-child(3)")


def _panels(browser: Any, url: str, settings: ScreenshotSettings, theme: str, options: dict[str, Any]) -> None:
    assert settings.panels
    with open_page(browser, url, **options) as page:
        _begin(page, settings)
        for name in PANELS:
            page.click(f"#tab-{name}")
            if name == "write":
                fill(page, seed=7, temperature=0.8)
                write(page, 500)
            if name == "look":
                _place(page, 80)
                page.click("#read-units")
                page.wait_for_selector(".strip")
            if name == "learn":
                page.wait_for_selector("#chance .bar")
                page.fill("#l-top-p", "0.9")
                page.click("#memory-go")
                wait_until(page, "!document.querySelector('#memory-go').disabled")
                page.click("#pair-go")
                wait_until(page, "document.querySelector('#pair-about').textContent.includes('bits per character')")
            if name == "know":
                page.wait_for_selector("#card table")
                page.wait_for_selector(".meter")
            page.evaluate("window.scrollTo(0, 0)")
            page.screenshot(path=settings.panels / f"{name}-{theme}.png", full_page=True)


def _shoot(page: Any, file: Path, box: str = "") -> None:
    """Take a picture of the page, or of a part of it, in few colours."""
    page.evaluate("window.scrollTo(0, 0); document.querySelector('.top').style.position = 'static'")
    shot = Image.open(io.BytesIO((page.locator(box) if box else page).screenshot()))
    shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
