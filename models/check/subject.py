"""What is checked: a configuration and its text, and the weights of a run if there is one."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.check.history import History, history_of
from models.check.trial import Trial, run_trial
from models.data.corpus import Corpus
from models.network.char_lm import CharLM
from models.network.config import Init, ModelConfig
from models.network.initialise import initialise
from models.training.settings import TrainSettings

__all__ = ["NO_DROPOUT", "Subject", "windows"]

NO_DROPOUT: dict[str, Any] = {"dropout": 0.0, "dropout_input": 0.0, "dropout_output": 0.0}


@dataclass(frozen=True)
class Subject:
    """What the checks look at; what takes time is done when it is first asked for.

    Attributes:
        config: of the model.
        run: folder of a run; None to check before training.
        loaded: the run's model, in eval mode.
    """

    settings: TrainSettings
    corpus: Corpus
    config: ModelConfig
    run: Path | None = None
    loaded: CharLM | None = None

    def fresh(self, init: Init | None = None, **changes: Any) -> CharLM:
        """A model as training begins with it, but for `init` and what of the configuration is changed."""
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
        """What losses are per: character or byte."""
        return self.corpus.vocabulary.unit[:-1]

    @property
    def trained(self) -> CharLM:
        """The run's model; without one, what a trial makes."""
        return self.loaded or self._trial.model

    @cached_property
    def history(self) -> History:
        """How the run was trained; without one, or if it kept no figures, a trial."""
        return (self.run and history_of(self.run)) or self._trial.history

    @cached_property
    def _trial(self) -> Trial:
        return run_trial(self.fresh(), self.corpus, self.settings)

    def windows(self, steps: int, streams: int) -> Tensor:
        """Pieces of the training text: [steps + 1, streams] int64."""
        return windows(self.corpus.training, steps, streams)

    def lines(self, count: int, most: int) -> Tensor:
        """The first lines of the training text, at most so many characters: [N] int64."""
        first = self.corpus.training[:most].astype(np.int64)
        ends = np.flatnonzero(first == self.corpus.start) if self.corpus.start_text == "\n" else np.array([])
        return torch.from_numpy(first[: ends[count - 1] + 1] if len(ends) >= count else first)


def windows(ids: NDArray[np.integer], steps: int, streams: int) -> Tensor:
    """Evenly spaced pieces of a text, which may overlap in a short one: [steps + 1, streams] int64.

    Fewer steps where the text is shorter than that.
    """
    steps = min(steps, len(ids) - 1)
    starts = np.linspace(0, len(ids) - steps - 1, streams).astype(np.int64)
    return torch.from_numpy(ids[starts + np.arange(steps + 1)[:, None]].astype(np.int64))
