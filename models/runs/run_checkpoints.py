"""The checkpoints that a run leaves in its folder."""

from typing import NamedTuple

from bundle.manifest import TrainingRecord
from models.data.corpus import Corpus
from models.evaluation.evaluate import carried_nats
from models.training.checkpoint import BEST, LAST, Header, Progress, load, read, save
from models.training.settings import TrainSettings
from models.training.trainer import Trainer

__all__ = ["Keeping"]


class Keeping(NamedTuple):
    """What checkpoints are made of."""

    settings: TrainSettings
    corpus: Corpus
    trainer: Trainer

    def last(self, progress: Progress) -> None:
        """Writes all that going on needs. A matter of the whole group; the first process writes."""
        tensors = self.trainer.tensors()
        if self.trainer.group.is_first:
            nats = {} if progress.best is None else {"carried_sample": progress.best}
            save(self.settings.out, LAST, self._header(progress, nats), tensors)

    def best(self, progress: Progress) -> None:
        """Writes the model as it is to be kept."""
        if self.trainer.group.is_first:
            nats = {} if progress.best is None else {"carried_sample": progress.best}
            with self.trainer.use_average():
                save(self.settings.out, BEST, self._header(progress, nats), self.trainer.weights())

    def judged(self) -> tuple[TrainingRecord, float | None]:
        """Validates the best checkpoint on all of the held-out text, and writes the loss into it.

        Returns:
            Its record, and the loss in nats; None if nothing is held out.
        """
        folder, held_out = self.settings.out, self.corpus.validation
        header, tensors = read(folder)
        if not len(held_out):
            return header.training, None
        nats = carried_nats(load(folder).model.to(self.trainer.device), held_out, self.corpus.start)
        record = header.training.model_copy(update={"validation_nats": {"carried": nats}})
        save(folder, BEST, header.model_copy(update={"training": record}), tensors)
        return record, nats

    def _header(self, progress: Progress, nats: dict[str, float]) -> Header:
        model, vocabulary = self.trainer.model, self.corpus.vocabulary
        return Header(
            model=model.config,
            symbols=vocabulary.symbols,
            unit=vocabulary.unit,
            start_text=self.corpus.start_text,
            training=TrainingRecord(
                data=self.corpus.name,
                data_sha256=self.corpus.sha256,
                split=self.settings.split,
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                steps=self.trainer.step,
                seconds=progress.seconds,
                validation_nats=nats,
            ),
            settings=self.settings,
            progress=progress,
        )
