"""Measure whether the page stays responsive and small while a long text streams into it, coloured by surprise.

    python -m benchmarks.playground.long_text [--bundle FOLDER] [--chars 20000]

It prints the longest task of the page's thread, how many were longer than 50 ms, frames, and the memory of JavaScript
before and after, after a collection of garbage.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.playground.browser import PORT, WEB, fill, missing_tool, open_browser, open_page, write
from benchmarks.support.machine import describe_machine
from benchmarks.support.servers import given_or_untrained, serving
from charstream.settings import Settings, fail, parse

COMMAND = "python -m benchmarks.playground.long_text"
# Tasks of 50 ms and longer, as the browser counts them, and the pauses between two frames.
WATCH = """() => {
  window.tasks = []; window.frames_ = []; let last = performance.now();
  new PerformanceObserver(list => list.getEntries().forEach(one => window.tasks.push(one.duration)))
    .observe({entryTypes: ['longtask']});
  const frame = now => { window.frames_.push(now - last); last = now; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
}"""


class LongTextSettings(Settings):
    """Stream a long text into the page."""

    bundle: Path | None = Field(None, description="a bundle to serve (default: an untrained LSTM of 2 layers of 256)")
    chars: int = Field(20_000, ge=100, description="characters of the text")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(LongTextSettings, argv, command=COMMAND)
    if missing := missing_tool():
        fail(COMMAND, missing, code=1)
    with (
        given_or_untrained(settings.bundle, hidden=256) as bundle,
        serving(bundle, *PORT) as server,
        open_browser() as browser,
        open_page(browser, f"http://{server.wait_for(WEB)}/", viewport={"width": 1280, "height": 800}) as page,
    ):
        fill(page, seed=1, temperature=1)
        write(page, 100)
        before = _heap(page)
        page.evaluate(WATCH)
        write(page, settings.chars, seconds=300)
        tasks, frames = page.evaluate("window.tasks"), sorted(page.evaluate("window.frames_"))
        figures = {
            "characters": settings.chars,
            "longest_task_ms": round(max(tasks, default=0.0)),
            "tasks_of_50_ms": len(tasks),
            "frames": len(frames),
            "frame_p99_ms": round(frames[int(0.99 * len(frames))], 1),
            "heap_before_mb": round(before, 1),
            "heap_after_mb": round(_heap(page), 1),
            "said": page.inner_text("#texts footer"),
        }
        print(f"{describe_machine()}\n{json.dumps(figures, ensure_ascii=False)}")
    return 0


def _heap(page: Any) -> float:
    """Return the megabytes that the page's JavaScript keeps."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    return float(session.send("Runtime.getHeapUsage")["usedSize"]) / 1e6


if __name__ == "__main__":
    sys.exit(main())
