"""Locust's page and report in characters, with the table of the load test."""

import html
from typing import Any

import locust.html
from flask import Response, request
from locust.env import Environment

from loadtest.recorder import recorder_of
from loadtest.summary import table

__all__ = ["show_characters"]

# Locust has one label for the lengths of all answers, and no setting for it.
_LABEL, _OURS = "Average size (bytes)", "Average size (characters)"
_PATH = "/texts"
_BLOCK = '<pre id="texts" style="margin: 1rem; padding: 1rem; background: #eee; color: #111">{}</pre>'
_SCRIPT = f"""<script>
setInterval(async () => {{
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
    web_ui.app.add_url_rule(
        _PATH, "texts", web_ui.auth_required_if_enabled(lambda: Response(_table(environment), mimetype="text/plain"))
    )

    @web_ui.app.after_request  # type: ignore[untyped-decorator]
    def count_characters(response: Response) -> Response:
        is_page, is_script = request.path == "/", request.path.endswith(".js")
        if response.status_code == 200 and (is_page or is_script):
            response.direct_passthrough = False
            text = response.get_data(as_text=True).replace(_LABEL, _OURS)
            response.set_data(_before_end(text, _BLOCK.format("") + _SCRIPT) if is_page else text)
        return response


def _with_table(environment: Environment, page: str) -> str:
    return _before_end(page.replace(_LABEL, _OURS), _BLOCK.format(html.escape(_table(environment))))


def _before_end(page: str, block: str) -> str:
    head, end, tail = page.rpartition("</body>")
    return head + block + end + tail


def _table(environment: Environment) -> str:
    return table(recorder_of(environment).run())
