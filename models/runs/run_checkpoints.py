"""The checkpoints of a run: the header that each begins with, and the final validation of the best one."""

import torch

from bundle.manifest import TrainingRecord
from models.data.corpus import Corpus
from models.data.sample_prompts import sample_prompts
from models.evaluation.losses import carried_nats
from models.network.char_lm import CharLM
from models.run_folder import BEST
from models.training.checkpoint import Header, Progress, load, read, save
from models.training.settings import TrainSettings

__all__ = ["finalise_best", "make_header"]


def make_header(settings: TrainSettings, corpus: Corpus, model: CharLM, step: int, progress: Progress) -> Header:
    """Return the header of a checkpoint of `model` after `step` steps."""
    return Header(
        model=model.config,
        symbols=corpus.vocabulary.symbols,
        unit=corpus.vocabulary.unit,
        start_text=corpus.start_text,
        training=TrainingRecord(
            data=corpus.name,
            data_sha256=corpus.sha256,
            split=settings.split,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            steps=step,
            seconds=progress.seconds,
            validation_nats={} if progress.best is None else {"carried_sample": progress.best},
            prompts=sample_prompts(corpus.validation if len(corpus.validation) else corpus.ids, corpus.vocabulary),
        ),
        settings=settings,
        progress=progress,
    )


def finalise_best(settings: TrainSettings, corpus: Corpus, device: torch.device) -> tuple[TrainingRecord, float | None]:
    """Validate the best checkpoint on the whole held-out text, and write the loss into it.

    Returns:
        Its record, and the loss in nats; None if nothing is held out.
    """
    header, tensors = read(settings.out)
    if not len(corpus.validation):
        return header.training, None
    nats = carried_nats(load(settings.out).model.to(device), corpus.validation, corpus.start)
    record = header.training.model_copy(update={"validation_nats": {"carried": nats}})
    save(settings.out, BEST, header.model_copy(update={"training": record}), tensors)
    return record, nats
