"""From what the command is told to what is checked."""

from pathlib import Path

from models.check.settings import CheckSettings
from models.check.subject import Subject
from models.data.corpus import NAMED, Corpus, open_corpus, require_same_text
from models.data.text_files import CorpusError
from models.network.config import ModelConfig
from models.training.checkpoint import CheckpointError, Header, load, read
from models.training.settings import TrainSettings

__all__ = ["open_subject"]

LEAST_CHARS = 100  # of training: with fewer the figures would mean nothing
# What says how long a run is, and where it goes: of no use here, and --steps, which is, would stand against --minutes.
_OF_A_RUN = {"out", "minutes", "characters", "resume", "overwrite", "tensorboard", "json_"}
_OF_THE_CALL = CheckSettings.model_fields.keys() - TrainSettings.model_fields.keys() | _OF_A_RUN


def open_subject(given: CheckSettings) -> Subject:
    """Reads the run, if there is one, and the text.

    Raises:
        CheckpointError: no run there, or its model is another than the flags say.
        CorpusError: no text, or one that does not fit.
    """
    if given.run is None:
        settings = _as_train_settings({}, given)
        corpus = _corpus(settings)
        return Subject(settings, corpus, settings.model_of(len(corpus.vocabulary)))
    header, _ = read(given.run)
    _same_model(given, header)
    kept = {} if header.settings is None else header.settings.model_dump(exclude=_OF_A_RUN | {"steps"})
    settings = _as_train_settings(kept, given)
    corpus = _corpus(settings)
    if not given.data:
        require_same_text(corpus, header.training.data_sha256)
    if corpus.vocabulary != header.vocabulary:
        raise CorpusError(f"{corpus.path} has other characters than the text of {given.run}: give that one by --data")
    return Subject(settings, corpus, header.model, given.run, load(given.run).model)


def _as_train_settings(kept: dict[str, object], given: CheckSettings) -> TrainSettings:
    """What is given overrides what is kept; where it goes does not matter, nothing is written as a run."""
    changes = given.model_dump(include=given.model_fields_set - _OF_THE_CALL)
    return TrainSettings.model_validate({**kept, **changes, "out": Path()})


def _same_model(given: CheckSettings, header: Header) -> None:
    for name in given.model_fields_set & ModelConfig.model_fields.keys():
        wanted, there = getattr(given, name), getattr(header.model, name)
        if wanted != there:
            raise CheckpointError(
                f"{given.run} has {name.replace('_', '-')} {there}, not {wanted}: leave it out, or check without a run"
            )


def _corpus(settings: TrainSettings) -> Corpus:
    if not settings.data:
        raise CorpusError(f"--data is missing: {', '.join(NAMED)}, a text file, a folder of .txt files, or a URL")
    corpus = open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split)
    if len(corpus.training) < LEAST_CHARS:
        raise CorpusError(
            f"{corpus.path}: {len(corpus.training)} characters to train on are too few to check, "
            f"at least {LEAST_CHARS} are needed"
        )
    return corpus
