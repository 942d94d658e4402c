"""The subject of the checks: a configuration, its text, and the weights of a run or of a trial."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bundle.vocabulary import singular
from models.check.trial import History, Trial, read_history, run_trial
from models.data.corpus import Corpus
from models.network.char_lm import CharLM
from models.network.config import Init, ModelConfig
from models.network.initialise import initialise
from models.training.settings import TrainSettings

__all__ = ["NO_DROPOUT", "Subject"]

NO_DROPOUT: dict[str, Any] = {"dropout": 0.0, "dropout_input": 0.0, "dropout_output": 0.0, "weight_drop": 0.0}
UNIGRAM_CHARS = 1_000_000  # of the training text, whose frequencies are counted


@dataclass(frozen=True)
class Subject:
    """The subject of the checks; a trial is run when a check first asks for what it gives.

    Attributes:
        config: the model's.
        run: folder of a run; None to check before training.
        loaded: the run's model, in eval mode.
    """

    settings: TrainSettings
    corpus: Corpus
    config: ModelConfig
    run: Path | None = None
    loaded: CharLM | None = None

    def fresh(self, init: Init | None = None, **changes: Any) -> CharLM:
        """Return an untrained model, as training begins with it apart from `init` and changes of the configuration."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            model = CharLM(self.config.model_copy(update=changes))
            initialise(
                model,
                init or self.settings.init,
                scale=self.settings.init_scale,
                forget_bias=self.settings.forget_bias,
            )
        return model

    @property
    def unit(self) -> str:
        """The unit of a symbol, which losses are per: character or byte."""
        return singular(self.corpus.vocabulary.unit)

    @property
    def trained_model(self) -> CharLM:
        """The run's model; without a run, that of a trial."""
        return self.loaded or self._trial.model

    @cached_property
    def history(self) -> History:
        """The run's history; that of a trial without a run, or if the run has none."""
        return (self.run and read_history(self.run)) or self._trial.history

    @cached_property
    def _trial(self) -> Trial:
        return run_trial(self.fresh(), self.corpus, self.settings)

    @property
    def unigram_entropy(self) -> float:
        """The loss of a model that knows the characters' frequencies alone, nats per character."""
        counts = np.bincount(self.corpus.training[:UNIGRAM_CHARS])
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())

    def windows(self, steps: int, streams: int) -> Tensor:
        """Return evenly spaced pieces of the training text: [steps + 1, streams] int64.

        In a short text they overlap; one that is shorter than `steps` gives fewer steps.
        """
        ids = self.corpus.training
        steps = min(steps, len(ids) - 1)
        starts = np.linspace(0, len(ids) - steps - 1, streams).astype(np.int64)
        return torch.from_numpy(ids[starts + np.arange(steps + 1)[:, None]].astype(np.int64))

    def lines(self, count: int, most: int) -> Tensor:
        """Return the first lines of the training text, at most `most` characters: [N] int64."""
        first = self.corpus.training[:most].astype(np.int64)
        ends = np.flatnonzero(first == self.corpus.start) if self.corpus.start_text == "\n" else np.array([])
        return torch.from_numpy(first[: ends[count - 1] + 1] if len(ends) >= count else first)
