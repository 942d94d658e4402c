"""The loss of a model on a text, by one of three protocols, with its confidence interval, as figures and in words."""

import math
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bundle.vocabulary import Unit, Vocabulary, singular
from models.data.text_files import CorpusError
from models.evaluation.bootstrap import FEWEST, Interval, autocorrelation, bootstrap, hoeffding
from models.evaluation.losses import LossEvaluator, carried_losses, single_reader_losses, windows_losses
from models.terminal import ProgressBar

__all__ = ["EvaluatedModel", "Evaluation", "evaluate"]

Protocol = Literal["carried", "windows", "dynamic"]

# The most symbols whose mean loss is one value of the bootstrap, and how many values it should have. Correlation over
# hundreds of symbols is too weak to be seen between single symbols, and still matters.
STRETCH, STRETCHES = 256, 100


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate, its vocabulary and its start character; `name` is for people."""

    name: str
    evaluator: LossEvaluator
    vocabulary: Vocabulary
    start_text: str


@dataclass(frozen=True)
class Evaluation:
    """Losses in nats per symbol, and how certain their mean is.

    Attributes:
        left_out: symbols at the end that fill no window.
        characters: number of characters of the evaluated symbols; fewer than the symbols if those are bytes.
        largest: the largest loss of a symbol.
        stretch: symbols of a stretch; the interval is made of the stretches' mean losses.
        neighbours, stretches: correlation of a symbol's loss with the next one's, and of a stretch's with the next's.
        interval: None if there are too few stretches.
        independent: number of symbols with independent losses whose mean would be as certain.
        hoeffding: half of the interval by Hoeffding's inequality.
    """

    model: str
    text: str
    protocol: Protocol
    window: int
    unit: Unit
    nats: float
    symbols: int
    left_out: int
    characters: int
    largest: float
    stretch: int
    neighbours: float
    stretches: float
    interval: Interval | None
    independent: float
    hoeffding: float
    seconds: float

    @property
    def nats_per_character(self) -> float:
        return self.nats * self.symbols / self.characters

    @property
    def perplexity(self) -> float:
        """e to the loss per symbol; infinite beyond the range of a float."""
        return math.exp(self.nats) if self.nats < math.log(sys.float_info.max) else math.inf

    def facts(self) -> dict[str, Any]:
        """Return the figures for JSON; `nats`, `bits` and `perplexity` are per symbol."""
        return {
            "model": self.model,
            "text": self.text,
            "protocol": self.protocol,
            **({"window": self.window, "left_out": self.left_out} if self.protocol == "windows" else {}),
            "unit": self.unit,
            "symbols": self.symbols,
            "nats": self.nats,
            "bits": self.nats / math.log(2),
            "perplexity": self.perplexity if math.isfinite(self.perplexity) else None,
            "nats_per_character": self.nats_per_character,
            "interval": None if self.interval is None else [self.interval.low, self.interval.high],
            "block": None if self.interval is None else self.interval.block * self.stretch,
            "independent": self.independent,
            "neighbours": self.neighbours,
            "hoeffding": self.hoeffding,
            "seconds": round(self.seconds, 1),
        }

    def __str__(self) -> str:
        return "\n".join([f"{self.model}, {self.text}", self._explanation(), self._loss_line(), *self._uncertainty()])

    def _explanation(self) -> str:
        unit = singular(self.unit)
        if self.protocol == "carried":
            return (
                f"carried: one reader takes all of it, from the initial state and the start character on; each {unit}\n"
                "is predicted once, from everything before it. It is what a server's Score tells of such a text."
            )
        if self.protocol == "dynamic":
            return (
                f"dynamic: one reader takes all of it, as carried, and learns as it reads: each {unit} is predicted "
                "before it is\nlearnt from (dynamic evaluation). The figure is this text's alone: it is no property of "
                "the model, and no server gives it."
            )
        return (
            f"windows: x = ids[i : i + {self.window}], y one later, i = 0, {self.window}, {2 * self.window}, ...; each "
            "window is read from the zero state,\n"
            f"without a start character, so its first {self.unit} have little before them (nanoGPT's protocol).\n"
            f"{self.symbols // self.window:,} windows; {self.left_out:,} {self.unit} left out at the end."
        )

    def _loss_line(self) -> str:
        text = (
            f"{self.nats:.4f} nats per {singular(self.unit)}, {self.nats / math.log(2):.4f} bits, "
            f"perplexity {self.perplexity:.3f}, over {self.symbols:,} {self.unit}"
        )
        if self.unit == "bytes":
            text += f"; {self.nats_per_character:.4f} nats per character"
        return text

    def _uncertainty(self) -> list[str]:
        unit = self.unit
        if self.interval is None:
            return [f"no confidence interval: {self.symbols:,} {unit} are too few"]
        return [
            f"95 % interval of the mean: {self.interval.low:.4f} to {self.interval.high:.4f} "
            f"(circular block bootstrap, blocks of {self.interval.block * self.stretch:,} {unit})",
            f"Hoeffding's bound: {self.nats:.4f} +- {self.hoeffding:.4f}, if the losses of {self.symbols:,} {unit} "
            f"were independent and at most {self.largest:.2f},",
            f"the largest seen. They are not: neighbours correlate by {self.neighbours:.2f}, stretches of "
            f"{self.stretch} by {self.stretches:.2f}; all tell as much",
            f"as {self.independent:,.0f} independent ones. And a loss has no bound.",
        ]


def evaluate(model: EvaluatedModel, ids: NDArray[np.integer], text: str, protocol: Protocol, window: int) -> Evaluation:
    """Evaluate a model on the whole of a text.

    Args:
        ids: the text's symbols, [N], in the model's numbers.
        text: a name of the text, for people.
        window: symbols of a window, W; only of the protocol `windows`.

    Raises:
        CorpusError: the text is shorter than a window and the symbol after it, or a loss is not finite.
    """
    began = time.monotonic()
    losses = _losses(model, ids, text, protocol, window)
    if not np.isfinite(losses).all():
        raise CorpusError(f"{model.name}: loses {losses.mean():g} nats on {text}: its weights are no good")
    stretch = window if protocol == "windows" else max(1, min(STRETCH, losses.size // STRETCHES))
    flat = losses.ravel()
    values = flat[: losses.size // stretch * stretch].reshape(-1, stretch).mean(1, dtype=np.float64)
    interval = bootstrap(values) if len(values) >= FEWEST else None
    return Evaluation(
        model=model.name,
        text=text,
        protocol=protocol,
        window=window,
        unit=model.vocabulary.unit,
        nats=float(losses.mean(dtype=np.float64)),
        symbols=losses.size,
        left_out=len(ids) - 1 - losses.size if protocol == "windows" else 0,
        characters=_characters(model.vocabulary, ids[1 : 1 + losses.size] if protocol == "windows" else ids),
        largest=float(losses.max()),
        stretch=stretch,
        neighbours=float(autocorrelation(flat, 1)[-1]),
        stretches=float(autocorrelation(values, 1)[-1]),
        interval=interval,
        independent=float(losses.var(dtype=np.float64)) / interval.error**2 if interval and interval.error else 0.0,
        hoeffding=hoeffding(flat),
        seconds=time.monotonic() - began,
    )


def _losses(
    model: EvaluatedModel, ids: NDArray[np.integer], text: str, protocol: Protocol, window: int
) -> NDArray[np.float32]:
    if protocol == "windows" and len(ids) <= window:
        raise CorpusError(
            f"the {text} has {len(ids):,} {model.vocabulary.unit}, a window of {window} needs {window + 1}"
        )
    with ProgressBar("evaluate", " chars", len(ids)) as bar:
        if protocol == "windows":
            return windows_losses(model.evaluator, ids, window, bar)
        start = int(model.vocabulary.symbols_to_tokens(model.start_text)[0])
        read = single_reader_losses if protocol == "dynamic" else carried_losses
        return read(model.evaluator, ids, start, bar)


def _characters(vocabulary: Vocabulary, ids: NDArray[np.integer]) -> int:
    """Count the characters of the symbols: in UTF-8 each has one byte that is not 10xxxxxx."""
    if vocabulary.unit == "characters":
        return len(ids)
    codes = np.array([ord(symbol) for symbol in vocabulary.symbols])
    return max(1, int(((codes & 0xC0) != 0x80)[ids].sum()))
