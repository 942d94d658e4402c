"""Who calls."""

from typing import Any

from grpc.aio import ServicerContext

__all__ = ["Access"]


class Access:
    """Tells callers apart."""

    def identify(self, context: ServicerContext[Any, Any]) -> str:
        """The caller's identity; empty where everybody may call. Raises Unauthenticated."""
        return ""
