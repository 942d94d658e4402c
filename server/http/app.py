"""The application of the HTTP port: what is where."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from server.http.completions import Completions
from server.http.exchange import Door, Endpoint
from server.http.models import ModelList
from server.http.playground.insight import Insight
from server.http.playground.pages import page_routes
from server.http.scores import Scores
from server.http.triton import Generate, error_text
from server.observe.metrics import Metrics, Stage
from server.service.calls import Calls, Models, States, Texts
from server.settings import ServerSettings

__all__ = ["build"]

CHAT = (
    "there is no chat here: these models continue a text, character by character, and know no roles. "
    "Send the text to POST /v1/completions as `prompt`"
)
# Of a character in JSON: two escapes of UTF-16. A request has a prompt and received text.
CHARACTER_BYTES, TEXTS = 12, 2
OVERHEAD_BYTES = 64 << 10
PLACES = (
    "POST /v1/completions, /v1/score, /v1/activations, /v2/models/NAME/generate and /generate_stream, "
    "GET /v1/models, /v1/cards/NAME, /v1/load, GET /health"
)


def build(
    calls: Calls, texts: Texts, models: Models, states: States, settings: ServerSettings, metrics: Metrics
) -> ASGIApp:
    """Return the application."""
    door = Door(calls, _body_bytes(settings))
    completions = Completions(texts, settings.most_continuations, settings.default_chars)
    generate, listed = Generate(texts, settings.default_chars), ModelList(models)
    insight = Insight(states, models, metrics, settings)
    routes = [
        Route("/health", _health(metrics)),
        Route("/v1/completions", Endpoint(door, "completions", completions.serve), methods=["POST"]),
        Route("/v1/score", Endpoint(door, "score", Scores(texts).serve), methods=["POST"]),
        Route("/v1/chat/completions", _refuse_chat, methods=["POST"]),
        Route("/v1/activations", Endpoint(door, "activations", insight.serve_activations), methods=["POST"]),
        Route("/v1/cards/{name:path}", Endpoint(door, "card", insight.serve_card), methods=["GET"]),
        Route("/v1/load", Endpoint(door, "load", insight.serve_load), methods=["GET"]),
        Route("/v1/models", Endpoint(door, "models", listed.serve_all), methods=["GET"]),
        Route("/v1/models/{name:path}", Endpoint(door, "models", listed.serve_one), methods=["GET"]),
    ]
    for place in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        whole = Endpoint(door, "generate", generate.serve_whole, error_text)
        stream = Endpoint(door, "generate_stream", generate.serve_stream, error_text)
        routes += [Route(f"{place}/generate", whole, methods=["POST"])]
        routes += [Route(f"{place}/generate_stream", stream, methods=["POST"])]
    routes += page_routes() if settings.playground else []
    handlers = {HTTPException: _refuse_place}
    return Starlette(routes=routes, middleware=_cors(settings.http_origins), exception_handlers=handlers)


def _cors(origins: tuple[str, ...]) -> list[Middleware]:
    """Let pages of these origins call; without any, no answer allows it."""
    if not origins:
        return []
    methods, headers = ("GET", "POST"), ("Authorization", "Content-Type")
    return [Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=methods, allow_headers=headers)]


def _health(metrics: Metrics) -> Callable[[Request], Awaitable[Response]]:
    async def health(request: Request) -> Response:
        """Whether the server takes calls; open to everybody, as over gRPC."""
        return JSONResponse({"status": metrics.stage.value}, 200 if metrics.stage is Stage.READY else 503)

    return health


async def _refuse_chat(request: Request) -> Response:
    return _error(404, CHAT)


async def _refuse_place(request: Request, error: Exception) -> Response:
    headers = dict(getattr(error, "headers", None) or {})
    if getattr(error, "status_code", 404) == 405:
        return _error(405, f"this path is not for {request.method}; allowed are {headers.get('Allow')}", headers)
    return _error(404, f"nothing is at this path; there are {PLACES}")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    about = {"message": message, "type": "invalid_request_error", "param": None, "code": "unknown_url"}
    return JSONResponse({"error": about}, status, headers)


def _body_bytes(settings: ServerSettings) -> int:
    # A token is in base64.
    return TEXTS * CHARACTER_BYTES * settings.max_prompt_chars + 2 * settings.max_token_bytes + OVERHEAD_BYTES
