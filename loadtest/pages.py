"""Locust's page and report in characters, with the table of the load test."""

import html
from collections.abc import Callable
from typing import Any

import locust.html
from flask import Response, request
from locust.env import Environment

from loadtest.live import live_text
from loadtest.recorder import recorder_of
from loadtest.summary import table

__all__ = ["show_characters"]

# Locust has one label for the lengths of all answers, and no setting for it.
_LABEL, _OURS = "Average size (bytes)", "Average size (characters)"
_PATH, _LINE_PATH = "/texts", "/line"
_BLOCK = '<pre id="texts" style="margin: 1rem; padding: 1rem; background: #eee; color: #111">{}</pre>'
# At the foot of the window, as Locust's page fills it.
_STYLE = (
    "position: fixed; z-index: 2000; inset: auto 0 0 0; max-height: 60vh; overflow: auto; background: #222; color: #eee"
)
_FOOT = f"""<details style="{_STYLE}; font: 15px/1.5 system-ui, sans-serif">
<summary id="line" style="padding: .6rem 1rem; cursor: pointer"></summary>
<pre id="texts" style="margin: 0; padding: 0 1rem 1rem"></pre></details>"""
_SCRIPT = f"""<script>
setInterval(async () => {{
  document.getElementById("line").textContent = await (await fetch("{_LINE_PATH[1:]}")).text()
  document.getElementById("texts").textContent = await (await fetch("{_PATH[1:]}")).text()
}}, 2000)
</script>"""


def show_characters(environment: Environment) -> None:
    """Count lengths in characters on Locust's page and in its report, and show the figures of the texts there."""
    render: Any = locust.html.render_template_from

    def render_with_table(file: str, *args: Any, **options: Any) -> str:
        page = str(render(file, *args, **options))
        return _with_table(environment, page) if file == "report.html" else page

    locust.html.render_template_from = render_with_table
    if environment.web_ui:
        _extend_page(environment, environment.web_ui)


def _extend_page(environment: Environment, web_ui: Any) -> None:
    for path, text in ((_PATH, _table), (_LINE_PATH, _line)):
        _add_text(environment, web_ui, path, text)

    @web_ui.app.after_request  # type: ignore[untyped-decorator]
    def count_characters(response: Response) -> Response:
        is_page, is_script = request.path == "/", request.path.endswith(".js")
        if response.status_code == 200 and (is_page or is_script):
            response.direct_passthrough = False
            text = response.get_data(as_text=True).replace(_LABEL, _OURS)
            response.set_data(_before_end(text, _FOOT + _SCRIPT) if is_page else text)
        return response


def _add_text(environment: Environment, web_ui: Any, path: str, text: Callable[[Environment], str]) -> None:
    """Answer at a path with a text."""

    def answer() -> Response:
        return Response(text(environment), mimetype="text/plain")

    web_ui.app.add_url_rule(path, path[1:], web_ui.auth_required_if_enabled(answer))


def _line(environment: Environment) -> str:
    users = environment.runner.user_count if environment.runner else 0
    return live_text(recorder_of(environment).measures, users, None)


def _with_table(environment: Environment, page: str) -> str:
    return _before_end(page.replace(_LABEL, _OURS), _BLOCK.format(html.escape(_table(environment))))


def _before_end(page: str, block: str) -> str:
    head, end, tail = page.rpartition("</body>")
    return head + block + end + tail


def _table(environment: Environment) -> str:
    return table(recorder_of(environment).run(is_brief=True))
