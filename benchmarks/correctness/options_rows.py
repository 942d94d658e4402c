"""What can be chosen for a run, laid out in rows: every structure of a layer, the other options pairwise."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, get_args

from benchmarks.correctness.options_covering import covering
from bundle.shape import BOUNDED
from bundle.vocabulary import Unit
from export.graph.bounds import unbounded_input
from models.network.activations import ACTIVATIONS
from models.network.config import Form, Init, Input, Norm
from models.training.settings import Optimizer, Schedule, TrainSettings

__all__ = ["DIVERGING", "LEFT_OUT", "OPTIONS", "STRUCTURES", "Row", "rows"]

SEQUENCE = 16
FIXED: dict[str, Any] = {
    "batch": 16,
    "sequence": SEQUENCE,
    "hidden": 24,
    "embedding": 8,
    "init_scale": 0.2,
    "device": "cpu",
}
STRUCTURES: list[dict[str, str]] = [
    {"cell": "lstm"},
    {"cell": "gru"},
    *({"cell": "rnn", "activation": phi, "form": form} for form in get_args(Form) for phi in ACTIVATIONS),
]
# init zeros is there to fail: it has a row of its own.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "init": tuple(init for init in get_args(Init) if init != "zeros"),
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "norm": get_args(Norm),
    "layers": (1, 2, 3),
    "dropout": ("none", "plain", "locked"),
    "clipping": ("none", "norm", "value"),
    "residual": (False, True),
    "input": get_args(Input),
    "vocabulary": get_args(Unit),
    "loss": ("mean", "sum"),
    "l1": (0.0, 1e-5),
    "l2": (0.0, 1e-4),
    "weight_decay": (0.0, 0.01),
    "ema": (0.0, 0.9),
    "patience": (0, 10),
    "warmup": (0, 20),
    "restart_every": (0, 8),
    "replace_rate": (0.0, 0.05),
    "drop_rate": (0.0, 0.05),
    "random_offsets": (False, True),
    "precision": ("fp32", "fp64"),
}
# Pairs that make no sense together, and why.
LEFT_OUT = {
    frozenset({("residual", True), ("layers", 1)}): "a residual connection begins at the second layer",
}
# First weights with which an activation without bound is not tried: its state grows in each step of a text.
DIVERGING: dict[str, tuple[str, ...]] = {
    **{phi: ("he",) for phi in ACTIVATIONS if phi not in BOUNDED},
    # Its mean is above 0, so that even weights of variance 1 / n push it on.
    "elu": ("he", "xavier_uniform", "xavier_normal"),
    # Above 0, and the larger of two: they grow with weights that the others bear.
    **{
        phi: tuple(init for init in OPTIONS["init"] if init not in ("torch", "uniform"))
        for phi in ("softplus", "maxout")
    },
}
# Masks are locked only where there are any: so these are one option.
DROPOUT: dict[str, dict[str, Any]] = {
    "none": {"dropout": 0.0},
    "plain": {"dropout": 0.1},
    "locked": {"dropout": 0.1, "locked_dropout": True},
}
CLIPPING = {"none": (0.0, 0.0), "norm": (1.0, 0.0), "value": (0.0, 0.1)}  # by norm, by value; of the mean loss
LEARNING_RATES = {"adamw": 0.01, "adam": 0.01, "rmsprop": 0.002, "adagrad": 0.05, "momentum": 0.1, "sgd": 0.5}
STEPS = {"adagrad": 400, "momentum": 400, "sgd": 400}  # others take 200
# Structures of which a bundle also has 8 bits: exporting them takes as long again.
IN_8_BITS = ("lstm", "gru", "rnn tanh post", "rnn rbf pre")


@dataclass(frozen=True)
class Row:
    """One run of the table.

    Attributes:
        name: also of the bundle.
        structure: of a layer, as settings.
        options: a value for each of `OPTIONS`.
        int8: whether it is exported in 8 bits too.
    """

    name: str
    structure: dict[str, str]
    options: dict[str, Any]
    int8: bool = False

    @property
    def fails(self) -> bool:
        """Whether it is expected to learn nothing."""
        return self.options["init"] == "zeros"

    def settings(self, data: Path, out: Path) -> TrainSettings:
        given = {name: value for name, value in self.options.items() if name not in ("dropout", "clipping")}
        scale = SEQUENCE if self.options["loss"] == "sum" else 1
        by_norm, by_value = CLIPPING[self.options["clipping"]]
        # Of a sum all gradients are so many times as large, and through a state without bound they grow. What divides
        # by their size does not mind.
        smaller = 1
        if self.options["optimizer"] in ("sgd", "momentum"):
            smaller = scale * (1 if self.structure.get("activation", "tanh") in BOUNDED else 5)
        # A gate's sigmoid passes on at most a quarter of it.
        larger = 4 if self.options["optimizer"] == "sgd" and self.structure["cell"] != "rnn" else 1
        return TrainSettings(
            data=str(data),
            out=out,
            steps=STEPS.get(self.options["optimizer"], 200),
            learning_rate=LEARNING_RATES[self.options["optimizer"]] * larger / smaller,
            clip_norm=by_norm * scale,
            clip_value=by_value * scale,
            **FIXED,
            **self.structure,
            **DROPOUT[self.options["dropout"]],
            **given,
        )

    def __str__(self) -> str:
        return f"{self.name}  {' '.join(self.structure.values()):19}  {' '.join(_told(self.options))}"


def rows() -> list[Row]:
    """All of them: those that must learn, then the one that must not."""
    left, waiting = list(IN_8_BITS), cycle(STRUCTURES)
    turn: list[dict[str, str]] = []
    found = []
    for number, options in enumerate(_arrays()):
        while not any(_stable(structure, options) for structure in turn):
            turn.append(next(waiting))
        structure = next(structure for structure in turn if _stable(structure, options))
        turn.remove(structure)
        row = Row(f"row-{number:02}", structure, options)
        kind = " ".join(structure.values())
        if kind in left and _bounded(row):
            left.remove(kind)
            row = Row(row.name, structure, options, int8=True)
        found.append(row)
    plain = {name: values[0] for name, values in OPTIONS.items()} | {"init": "zeros"}
    return [*found, Row("zeros", {"cell": "rnn", "activation": "tanh", "form": "post"}, plain)]


def _arrays() -> list[dict[str, Any]]:
    return covering(OPTIONS, frozenset(LEFT_OUT))


def _stable(structure: dict[str, str], options: dict[str, Any]) -> bool:
    return options["init"] not in DIVERGING.get(structure.get("activation", ""), ())


def _bounded(row: Row) -> bool:
    return unbounded_input(row.settings(Path(), Path()).model_of(vocab=1), "int8") is None


def _told(options: dict[str, Any]) -> Iterator[str]:
    """Values that speak for themselves, and the names of what is on."""
    for name, value in options.items():
        if name == "layers":
            yield f"{value} layer{'s' * (value > 1)}"
        elif value in ("none", "plain", "norm", "value"):
            if value != "none":
                yield {"plain": "dropout", "norm": "clip-norm", "value": "clip-value"}[value]
        elif isinstance(value, str):
            yield {"batch": "batch-norm", "layer": "layer-norm", "locked": "locked-dropout"}.get(value, value)
        elif value:
            yield name.replace("_", "-")
