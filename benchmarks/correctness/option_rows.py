"""Rows of options for training runs: every structure of a layer, and the other options pairwise."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any, get_args

from allpairspy import AllPairs

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
    "streams": ("stripes", "anew", "shuffled"),
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
# Masks are locked only where there are any, so these two settings are one option.
DROPOUT: dict[str, dict[str, Any]] = {
    "none": {"dropout": 0.0},
    "plain": {"dropout": 0.1},
    "locked": {"dropout": 0.1, "locked_dropout": True},
    "weights": {"dropout": 0.1, "weight_drop": 0.1},
}
# Pieces have a length only where streams begin anew.
STREAMS: dict[str, dict[str, Any]] = {
    "stripes": {"restart_every": 0},
    "anew": {"restart_every": 8},
    "shuffled": {"restart_every": 8, "shuffle": True},
}
CLIPPING = {"none": (0.0, 0.0), "norm": (1.0, 0.0), "value": (0.0, 0.1)}  # by norm, by value; for the mean loss
LEARNING_RATES = {"adamw": 0.01, "adam": 0.01, "rmsprop": 0.002, "adagrad": 0.05, "momentum": 0.1, "sgd": 0.5}
STEPS = {"adagrad": 400, "momentum": 400, "sgd": 400}  # others take 200
# Structures of which a bundle also has 8 bits: exporting them takes as long again.
IN_8_BITS = ("lstm", "gru", "rnn tanh post", "rnn rbf pre")


@dataclass(frozen=True)
class Row:
    """One training run of the table.

    Attributes:
        name: also the bundle's name.
        structure: the settings of a layer.
        options: a value for each of `OPTIONS`.
        int8: whether it is exported in 8 bits too.
    """

    name: str
    structure: dict[str, str]
    options: dict[str, Any]
    int8: bool = False

    @property
    def must_fail(self) -> bool:
        """Whether it is expected to learn nothing."""
        return bool(self.options["init"] == "zeros")

    def settings(self, data: Path, out: Path) -> TrainSettings:
        given = {name: value for name, value in self.options.items() if name not in ("dropout", "clipping", "streams")}
        scale = SEQUENCE if self.options["loss"] == "sum" else 1
        by_norm, by_value = CLIPPING[self.options["clipping"]]
        optimizer = self.options["optimizer"]
        # A sum's gradients are larger by the number of its terms, and grow through a state without bound. Optimizers
        # that divide by the gradients' size do not mind.
        divisor = 1
        if optimizer in ("sgd", "momentum"):
            divisor = scale * (1 if self.structure.get("activation", "tanh") in BOUNDED else 5)
        # A gate's sigmoid passes on at most a quarter of a gradient.
        factor = 4 if optimizer == "sgd" and self.structure["cell"] != "rnn" else 1
        return TrainSettings(
            data=str(data),
            out=out,
            steps=STEPS.get(optimizer, 200),
            learning_rate=LEARNING_RATES[optimizer] * factor / divisor,
            clip_norm=by_norm * scale,
            clip_value=by_value * scale,
            **FIXED,
            **self.structure,
            **DROPOUT[self.options["dropout"]],
            **STREAMS[self.options["streams"]],
            **given,
        )

    def __str__(self) -> str:
        chosen = (f"{name}={value}" for name, value in self.options.items() if value != OPTIONS[name][0])
        return f"{self.name}  {' '.join(self.structure.values()):19}  {' '.join(chosen)}"


def rows() -> list[Row]:
    """Return all rows: those that must learn, then the one that must not."""
    int8_left, structures, found = list(IN_8_BITS), cycle(STRUCTURES), list[Row]()
    turn: list[dict[str, str]] = []
    for number, values in enumerate(AllPairs(OrderedDict(OPTIONS), filter_func=_is_allowed)):
        options = values._asdict()
        while not any(_is_stable(structure, options) for structure in turn):
            turn.append(next(structures))
        structure = next(structure for structure in turn if _is_stable(structure, options))
        turn.remove(structure)
        row, kind = Row(f"row-{number:02}", structure, options), " ".join(structure.values())
        if kind in int8_left and unbounded_input(row.settings(Path(), Path()).model_of(vocab=1), "int8") is None:
            int8_left.remove(kind)
            row = replace(row, int8=True)
        found.append(row)
    plain = {name: values[0] for name, values in OPTIONS.items()} | {"init": "zeros"}
    return [*found, Row("zeros", {"cell": "rnn", "activation": "tanh", "form": "post"}, plain)]


def _is_allowed(values: Sequence[Any]) -> bool:
    """Whether the first values of a row are no pair that is left out."""
    options = set(zip(OPTIONS, values, strict=False))
    return not any(pair <= options for pair in LEFT_OUT)


def _is_stable(structure: dict[str, str], options: dict[str, Any]) -> bool:
    return options["init"] not in DIVERGING.get(structure.get("activation", ""), ())
