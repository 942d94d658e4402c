"""The variants of a comparison: which there are, and what each came to."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter

from models.atomic_files import naming
from models.data.corpus import open_corpus
from models.experiments.compare_settings import CompareSettings
from models.experiments.folder import RUNS, write_json
from models.experiments.parameter_count import hidden_for, parameters_of
from models.experiments.vary import VaryError, named, require_once, shown, values_of, variant
from models.progress import say
from models.reporting.curves import read_curves
from models.train import train_model
from models.training.checkpoint import LAST
from models.training.loss_guard import Diverged
from models.training.settings import TrainSettings

__all__ = ["Compared", "Variant", "trained", "variants"]

RESULT = "compared.json"  # in a variant's run, when it is done


@dataclass(frozen=True)
class Variant:
    """One run of a comparison; `changes`: the varied options, in the order given."""

    changes: dict[str, Any]
    settings: TrainSettings


@dataclass(frozen=True)
class Compared:
    """What a variant came to. Losses in nats per character or byte, the `unit`; None where training failed."""

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
    """All combinations that can be; what cannot is left out with a line on stderr. Raises VaryError, CorpusError."""
    options = [_option(text) for text in settings.vary]
    if not options:
        raise VaryError("--vary is missing: what is to be compared, as in --vary layers=1,2,3,4")
    require_once([name for name, _ in options], "--vary")
    _require_bound(settings, {name for name, _ in options})
    found = list(_possible(settings, options))
    if len(found) < 2:
        raise VaryError("there is nothing to compare: --vary needs two values that are possible, at least")
    return [_with_equal_parameters(one, settings) for one in found] if settings.equal == "parameters" else found


def trained(one: Variant) -> Compared:
    """Trains a variant, goes on with it where it was left, or reads what it came to when it was done before."""
    file = one.settings.out / RESULT
    known = _known(file)
    if known and known.changes == one.changes:
        return known
    with naming(one.settings.out):
        result = _compared(one)
    write_json(file, result.to_json())
    return result


def _known(file: Path) -> Compared | None:
    """What lies in a file; None without one, or if it is damaged."""
    try:
        return TypeAdapter(Compared).validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def _option(text: str) -> tuple[str, list[Any]]:
    name, values = named(text)
    return name, values_of(name, values)


def _require_bound(settings: CompareSettings, varied: set[str]) -> None:
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
    """A name that files can have, whatever the values are, and another for each."""
    return quote("_".join(f"{name}-{value}" for name, value in changes.items()), safe=",")


def _with_equal_parameters(one: Variant, settings: CompareSettings) -> Variant:
    parameters = parameters_of(settings, _vocab(settings))
    hidden = hidden_for(one.settings, _vocab(one.settings), parameters)
    return Variant(one.changes, variant(one.settings, {"hidden": hidden}, one.settings.out))


def _vocab(settings: TrainSettings) -> int:
    return len(open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split).vocabulary)


def _compared(one: Variant) -> Compared:
    left = (one.settings.out / f"{LAST}.json").exists()
    settings = one.settings.model_copy(update={"resume": left, "overwrite": not left})
    validation: float | None = None
    try:
        validation = train_model(settings)["carried_nats"]
    except Diverged as error:
        say(f"{shown(one.changes)}: {error}")
    curves = read_curves(settings.out)
    chars = curves.steps * curves.chars_per_step
    return Compared(
        one.changes,
        str(settings.out),
        settings.hidden,
        curves.parameters or 0,
        curves.steps,
        curves.seconds,
        round(chars / curves.seconds, 1) if curves.seconds else 0.0,
        curves.last("loss"),
        validation,
        settings.vocabulary[:-1],
    )
