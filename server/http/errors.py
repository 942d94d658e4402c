"""Errors as HTTP answers: the one place where a gRPC status becomes one of HTTP."""

import math
from typing import Any

from grpc import StatusCode

from server.errors import InvalidField, Overloaded, RequestError, WrongReplica

__all__ = ["BodyTooLarge", "BodyTooSlow", "error_body", "error_headers", "http_status"]

# By gRPC's status: the status of HTTP, and the type that OpenAI's clients know.
ANSWERS = {
    StatusCode.INVALID_ARGUMENT: (400, "invalid_request_error"),
    StatusCode.FAILED_PRECONDITION: (400, "invalid_request_error"),
    StatusCode.UNAUTHENTICATED: (401, "authentication_error"),
    StatusCode.NOT_FOUND: (404, "not_found_error"),
    StatusCode.RESOURCE_EXHAUSTED: (429, "rate_limit_error"),
    StatusCode.UNAVAILABLE: (503, "server_error"),
}
FAULT = (500, "server_error")


class BodyTooLarge(RequestError):
    """More bytes than any valid request has."""

    code = StatusCode.INVALID_ARGUMENT

    def __init__(self, limit: int) -> None:
        super().__init__(f"body: has more than {limit} bytes, the most that a request may have")


class BodyTooSlow(RequestError):
    """The rest of a request did not come."""

    code = StatusCode.DEADLINE_EXCEEDED

    def __init__(self, seconds: float) -> None:
        super().__init__(f"body: was not here after {seconds:g} s: send the whole request at once")


def http_status(error: Exception) -> int:
    if isinstance(error, BodyTooLarge):
        return 413
    if isinstance(error, BodyTooSlow):
        return 408
    return ANSWERS.get(_code(error), FAULT)[0]


def error_body(error: Exception, message: str) -> dict[str, Any]:
    """Return the error as OpenAI's clients read it; `code` is gRPC's status in lower case."""
    code = _code(error)
    about = {
        "message": message,
        "type": ANSWERS.get(code, FAULT)[1],
        "param": error.field if isinstance(error, InvalidField) else None,
        "code": _codes(error, code),
    }
    return {"error": about}


def error_headers(error: Exception) -> dict[str, str]:
    """Return when to try again; and for what the connection is no longer good."""
    if isinstance(error, Overloaded):
        return {"Retry-After": str(max(1, math.ceil(error.retry_seconds)))}
    if isinstance(error, (BodyTooLarge, BodyTooSlow)):
        return {"Connection": "close"}
    return {"WWW-Authenticate": "Bearer"} if _code(error) is StatusCode.UNAUTHENTICATED else {}


def _codes(error: Exception, code: StatusCode) -> str:
    match error:
        case WrongReplica():
            return "wrong_replica"
        case RequestError() if code is StatusCode.NOT_FOUND:
            return "model_not_found"
        case RequestError() if code is StatusCode.UNAUTHENTICATED:
            return "invalid_api_key"
        case Overloaded():
            return error.limit
    return code.name.lower()


def _code(error: Exception) -> StatusCode:
    return error.code if isinstance(error, RequestError) else StatusCode.INTERNAL
