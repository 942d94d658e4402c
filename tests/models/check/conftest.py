"""Small configurations to check."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.check.subject import Subject
from models.data.corpus import open_corpus
from models.training.settings import TrainSettings

SIZES = {"layers": 1, "hidden": 32, "embedding": 8, "batch": 8, "sequence": 16, "precision": "fp32", "dropout": 0.0}


@pytest.fixture
def subject(verse: Path, cache: Path) -> Callable[..., Subject]:
    """What would be trained on the verse with these settings."""

    def make(**changes: Any) -> Subject:
        settings = TrainSettings.model_validate({"data": str(verse), "out": ".", **SIZES, **changes})
        corpus = open_corpus(settings.data, vocabulary=settings.vocabulary)
        return Subject(settings, corpus, settings.model_of(len(corpus.vocabulary)))

    return make
