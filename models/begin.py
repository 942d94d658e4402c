"""How a run begins, anew or where it was left."""

from pathlib import Path

import torch

from models.checkpoint import BEST, LAST, CheckpointError, Progress, read
from models.corpus import NAMED, Corpus, open_corpus
from models.metrics import METRICS
from models.run import Run
from models.settings import TrainSettings
from models.text import CorpusError
from models.trainer import Arithmetic

__all__ = ["begin", "resume"]

# Settings that --resume may be given other than they were: the text is known by its sha256.
_FREE = {"data", "out", "preset", "resume", "overwrite", "json_"}


def begin(settings: TrainSettings, began: float) -> Run:
    """A new run in an empty or new folder, or with --overwrite in the place of an old one.

    Raises:
        CheckpointError: there is a run in the folder already.
        CorpusError: the text cannot be had, or is too short for the sizes.
    """
    folder = settings.out
    if not settings.overwrite and (folder / f"{LAST}.json").exists():
        raise CheckpointError(f"{folder} holds a run: go on with it by --resume, or replace it by --overwrite")
    if not settings.data:
        raise CorpusError(f"--data is missing: {', '.join(NAMED)}, a text file, a folder of .txt files, or a URL")
    corpus = open_corpus(settings.data)
    torch.manual_seed(settings.seed)
    run = Run(settings.model_copy(update={"data": _from_anywhere(settings.data)}), corpus, Progress(), began)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (f"{BEST}.*", f"{LAST}.*", METRICS):
        for old in folder.glob(name):
            old.unlink()
    return run


def resume(given: TrainSettings, began: float) -> Run:
    """The run in a folder, where its last checkpoint left it.

    Raises:
        CheckpointError: no run there, a damaged one, other settings than it was begun with, or another text.
        CorpusError: the text cannot be had any more.
    """
    header, tensors = read(given.out / f"{LAST}.json")
    settings = header.settings.model_copy(update={"out": given.out, "data": given.data or header.settings.data})
    for name in given.model_fields_set - _FREE:
        if getattr(given, name) != getattr(settings, name):
            raise CheckpointError(
                f"{given.out} was begun with {name.replace('_', '-')} {getattr(settings, name)}, "
                f"not {getattr(given, name)}: leave it out to go on, or begin another run"
            )
    corpus = open_corpus(settings.data)
    _same_text(corpus, header.training.data_sha256)
    run = Run(settings, corpus, header.progress, began)
    try:
        run.trainer.restore(header.progress.step, tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{given.out}: the tensors do not fit the model {header.model.model_dump()}") from error
    if header.progress.threads is not None:
        run.set_arithmetic(Arithmetic(bool(header.progress.bf16), header.progress.threads))
    run.metrics.forget_after(header.progress.step)
    return run


def _same_text(corpus: Corpus, sha256: str) -> None:
    if corpus.sha256 != sha256:
        raise CheckpointError(
            f"{corpus.path} is not the text of the run: its sha256 is {corpus.sha256[:12]}..., not {sha256[:12]}..."
        )


def _from_anywhere(data: str) -> str:
    return data if data in NAMED or "://" in data else str(Path(data).resolve())
