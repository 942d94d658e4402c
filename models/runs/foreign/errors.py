"""The error of all that reads models from elsewhere."""

__all__ = ["StateDictError"]


class StateDictError(ValueError):
    """A file holds no model that can be imported; the message is one line: found, expected, what to do."""
