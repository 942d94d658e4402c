"""The variants of a comparison, and their results."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from models.data.corpus import open_corpus
from models.experiments.folder import RUNS
from models.experiments.parameter_count import hidden_for, parameters_of
from models.experiments.settings import CompareSettings
from models.experiments.vary import VaryError, require_once, split_option, values_of, variant
from models.terminal import say
from models.training.settings import TrainSettings

__all__ = ["Variant", "VariantResult", "variants"]


@dataclass(frozen=True)
class Variant:
    """A run of a comparison. `changes`: the varied options, in the order given."""

    changes: dict[str, Any]
    settings: TrainSettings


@dataclass(frozen=True)
class VariantResult:
    """The result of a variant; losses in nats per `unit`, character or byte, None if training failed."""

    changes: dict[str, Any]
    run: str
    hidden: int
    parameters: int
    steps: int
    seconds: float
    chars_per_second: float
    training_nats: float | None
    validation_nats: float | None
    unit: str = "character"

    @property
    def bits(self) -> float | None:
        """Bits per character or byte of the validation part."""
        return None if self.validation_nats is None else self.validation_nats / math.log(2)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {f"bits_per_{self.unit}": self.bits}


def variants(settings: CompareSettings) -> list[Variant]:
    """Return all possible combinations; others are left out with a line on stderr. Raises VaryError, CorpusError."""
    options = [(name, values_of(name, values)) for name, values in map(split_option, settings.vary)]
    if not options:
        raise VaryError("--vary is missing: what is to be compared, as in --vary layers=1,2,3,4")
    require_once([name for name, _ in options], "--vary")
    _require_equal_terms(settings, {name for name, _ in options})
    found = list(_possible(settings, options))
    if len(found) < 2:
        raise VaryError("there is nothing to compare: --vary needs two values that are possible, at least")
    return [_resize(one, settings) for one in found] if settings.equal == "parameters" else found


def _require_equal_terms(settings: CompareSettings, varied: set[str]) -> None:
    if settings.equal == "parameters" and "hidden" in varied:
        raise VaryError("--equal parameters chooses --hidden: it cannot vary; take --equal steps or --equal time")
    if settings.equal == "time" and settings.minutes is None:
        raise VaryError("--equal time needs --minutes, for each variant")
    if settings.equal == "steps" and settings.steps is None:
        raise VaryError("--equal steps needs --steps, for each variant")


def _possible(settings: CompareSettings, options: list[tuple[str, list[Any]]]) -> Iterator[Variant]:
    names = [name for name, _ in options]
    for values in itertools.product(*(values for _, values in options)):
        changes = dict(zip(names, values, strict=True))
        try:
            yield Variant(changes, variant(settings, changes, settings.out / RUNS / _folder(changes)))
        except VaryError as error:
            say(f"left out: {error}")


def _folder(changes: dict[str, Any]) -> str:
    """Return a name that a file can have, whatever the values are, and that is unique to them."""
    return quote("_".join(f"{name}-{value}" for name, value in changes.items()), safe=",")


def _resize(one: Variant, settings: CompareSettings) -> Variant:
    """Give a variant as many parameters as the flags alone give."""
    parameters = parameters_of(settings, _vocab_size(settings))
    hidden = hidden_for(one.settings, _vocab_size(one.settings), parameters)
    return Variant(one.changes, variant(one.settings, {"hidden": hidden}, one.settings.out))


def _vocab_size(settings: TrainSettings) -> int:
    return len(
        open_corpus(
            settings.data, vocabulary=settings.vocabulary, split=settings.split, form=settings.text_form
        ).vocabulary
    )
