"""Training settings that differ in a few options, which are given as NAME=VALUES."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from charstream.settings_sources import reason_of
from models.training.settings import TrainSettings, overrides

__all__ = [
    "VaryError",
    "format_changes",
    "kind_of",
    "require_once",
    "split_option",
    "value_of",
    "values_of",
    "variant",
]

_FIXED = {"data", "out", "resume", "overwrite", "json_", "profile", "distill_from"}
_INCOMPARABLE = {
    "vocabulary": "a loss per byte and one per character cannot be compared",
    "split": "losses on different validation parts cannot be compared",
    "glob": "losses on different texts cannot be compared",
    "encoding": "losses on different texts cannot be compared",
}


class VaryError(ValueError):
    """An option that cannot vary, or cannot have a value; the message is one line."""


def split_option(text: str) -> tuple[str, str]:
    """Split NAME=VALUES, and return the name with underscores. Raises VaryError."""
    name, equals, values = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    names = [field for field in TrainSettings.model_fields if field not in _FIXED | _INCOMPARABLE.keys()]
    if not equals or not values.strip():
        raise VaryError(f"{text!r}: expected NAME=VALUES, as in layers=1,2")
    if name in _INCOMPARABLE:
        raise VaryError(f"{text!r}: {name} cannot vary: {_INCOMPARABLE[name]}")
    if name not in names:
        near = get_close_matches(name, names, n=1)
        raise VaryError(f"{text!r}: {name} is no option that can vary{f'; the nearest is {near[0]}' if near else ''}")
    return name, values.strip()


def value_of(name: str, text: str) -> Any:
    """Return an option's value in its type, a path as it is written. Raises VaryError."""
    field = TrainSettings.model_fields[name]
    try:
        value = TypeAdapter[Any](Annotated[field.annotation, field]).validate_python(text)  # type: ignore[arg-type]
    except ValidationError as error:
        raise VaryError(f"{name}={text}: {reason_of(error.errors()[0])}") from None
    return str(value) if isinstance(value, Path) else value


def values_of(name: str, text: str) -> list[Any]:
    """Return the values of A,B,C. Raises VaryError, also if a value is given twice."""
    values = [value_of(name, value.strip()) for value in text.split(",")]
    if len(set(values)) < len(values):
        raise VaryError(f"{name}={text}: a value is given twice; give each once")
    return values


def require_once(names: Sequence[str], flag: str) -> None:
    """Raise VaryError for an option that is given twice."""
    for name in names:
        if names.count(name) > 1:
            raise VaryError(f"{flag} {name}=... is given twice: give all of its values in one")


def kind_of(name: str) -> type | None:
    """Return int or float for an option that is a number, None for another option."""
    annotation = TrainSettings.model_fields[name].annotation
    kinds = {annotation, *getattr(annotation, "__args__", ())}
    return next((kind for kind in (int, float) if kind in kinds), None)


def format_changes(changes: Mapping[str, Any]) -> str:
    """Return the changed options as text in one line."""
    return ", ".join(
        f"{name.replace('_', ' ')} {f'{value:.4g}' if isinstance(value, float) else value}"
        for name, value in changes.items()
    )


def variant(base: TrainSettings, changes: Mapping[str, Any], out: Path) -> TrainSettings:
    """Return the settings of `base` with the changes. Raises VaryError if they do not go together."""
    given = {"preset": base.preset, **overrides(base), **changes, "out": out}
    try:
        return TrainSettings.model_validate(given)
    except ValidationError as error:
        raise VaryError(
            f"{format_changes(changes)}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        ) from None
