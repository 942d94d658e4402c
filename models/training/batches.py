"""The training text as parallel streams for truncated backpropagation, on the processor or on a GPU."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.text_files import CorpusError
from models.training.settings import TrainSettings

__all__ = ["DROPOUT", "Streams", "require_length", "send", "upload", "upload_text"]

OFFSETS, NOISE, DROPOUT = range(3)  # uses of random numbers: each has its own, by its number and the seed
_GPU_SHARE = 0.25  # of a GPU's free memory, for a text
_BLOCK = 1 << 26


class Streams:
    """B streams through B contiguous stripes of a text, each window after window, epoch after epoch.

    Shuffled, the text is cut into pieces of `restart_every` windows, which the streams share in a random order that is
    another one in each epoch. They begin their pieces one window after the other, where the trainer lets their states
    begin anew.

    A window depends on its number only: there is no position to save, and no random generator.

    Args:
        ids: the text's characters, [N] integers.
        vocab: the number of distinct characters.
        settings: sizes, noise, and the seed of it.
        part: the streams to read; the others are for other processes.
        text: the same characters on a GPU, [N]: then windows are cut there. Otherwise they are cut from `ids`.
        taught: the teachers' probabilities of each character after those before it, [N, V], on any device.

    Raises:
        CorpusError: the text is too short for the sizes.
    """

    def __init__(
        self,
        ids: NDArray[np.integer],
        vocab: int,
        settings: TrainSettings,
        part: slice = slice(None),
        text: Tensor | None = None,
        taught: Tensor | None = None,
    ) -> None:
        self._ids, self._vocab, self._settings, self._part, self._text = ids, vocab, settings, part, text
        self._taught = taught
        self._device = torch.device("cpu") if text is None else text.device
        self.sequence = settings.sequence if settings.batch > 1 else max(1, min(settings.sequence, len(ids) - 1))
        require_length(len(ids), settings.batch, self.sequence, settings.drop_rate)
        self._stripe = (len(ids) - 1) // settings.batch
        self._starts = send(torch.arange(settings.batch) * self._stripe, self._device)
        self._all = send(torch.arange(self.sequence)[:, None], self._device)
        self.windows = self._count_windows()
        self._orders: dict[int, NDArray[np.int64]] = {}

    def __deepcopy__(self, memo: object) -> "Streams":
        return self  # nothing in it changes but the orders that it keeps, and the text may be larger than memory

    @property
    def unread_share(self) -> float:
        """The share of the text that no window predicts, in any epoch."""
        if self._settings.random_offsets or self._settings.shuffle:
            return 0.0
        return 1 - self._settings.batch * self._place(self.windows) / (len(self._ids) - 1)

    def begins_epoch(self, number: int) -> bool:
        """Tell whether the streams jump before a window: the state is the initial one there."""
        return number == 0 if self._settings.shuffle else number % self.windows == 0

    def window(self, number: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of one step, each [T, B] int64: characters, and the text's next ones.

        They lie where the text does.
        """
        random = self._random(number)
        places = self._places_read(number, random)
        return self._replace_some(self._read(places), random), self._read(places + 1)

    def taught_window(self, number: int) -> Tensor | None:
        """Return the teachers' probabilities of a step's targets, [T, B, V] float16; None where there are none.

        They lie where all of them do.
        """
        if self._taught is None:
            return None
        places = self._places_read(number, self._random(number)) + 1
        return self._taught[(places % len(self._ids)).to(self._taught.device)]

    def _random(self, number: int) -> np.random.Generator:
        return np.random.default_rng((self._settings.seed, NOISE, number))

    def _places_read(self, number: int, random: np.random.Generator) -> Tensor:
        """Return the places of a step's inputs, [T, B]; those of its targets are one further, in a circle."""
        starts, length = self._shuffled_starts(number) if self._settings.shuffle else self._striped_starts(number)
        return (starts + self._choose_places(length, random))[:, self._part]

    def _striped_starts(self, number: int) -> tuple[Tensor, int]:
        """Return where a window begins in each stream, [B], and how far it reaches."""
        epoch, index = divmod(number, self.windows)
        begin, end = self._place(index), self._place(index + 1)
        return self._starts + (self._offset(epoch) + begin), end - begin

    def _shuffled_starts(self, number: int) -> tuple[Tensor, int]:
        """Return the same where the streams share pieces of the text."""
        length, every = self._place(1), self._settings.restart_every
        streams = np.arange(self._settings.batch)
        turns, windows = np.divmod(number + streams, every)
        epochs, places = np.divmod(turns * len(streams) + streams, self._count_pieces(length * every))
        pieces = [self._pieces(int(epoch), length * every)[at] for epoch, at in zip(epochs, places, strict=True)]
        return self._send(np.array(pieces) + windows * length), length

    def _count_pieces(self, size: int) -> int:
        return max(1, (len(self._ids) - 1) // size)

    def _pieces(self, epoch: int, size: int) -> NDArray[np.int64]:
        """Return where the pieces of an epoch begin, in the order in which they are read; the text is a circle."""
        if epoch not in self._orders:
            random = np.random.default_rng((self._settings.seed, OFFSETS, epoch))
            offset, order = random.integers(len(self._ids)), random.permutation(self._count_pieces(size))
            self._orders = {**dict(list(self._orders.items())[-1:]), epoch: offset + size * order}
        return self._orders[epoch]

    def _count_windows(self) -> int:
        """Return the number of windows of an epoch: those that fit whole into a stripe."""
        count = self._stripe // self.sequence
        while self._place(count) > self._stripe:
            count -= 1
        return count

    def _place(self, index: int) -> int:
        """Return where a window of an epoch begins in its stripe: windows that leave characters out reach further."""
        return int(index * self.sequence / (1 - self._settings.drop_rate))

    def _offset(self, epoch: int) -> int:
        """Return how far all stripes are turned around the text, which is a circle then."""
        if not self._settings.random_offsets:
            return 0
        return int(np.random.default_rng((self._settings.seed, OFFSETS, epoch)).integers(len(self._ids)))

    def _choose_places(self, length: int, random: np.random.Generator) -> Tensor:
        """Return the places to read of the next `length`, in order, [T, B], or [T, 1] if it is all of them."""
        if length == self.sequence:
            return self._all
        order = random.random((length, len(self._starts))).argpartition(self.sequence - 1, axis=0)
        return self._send(np.sort(order[: self.sequence], axis=0))

    def _read(self, places: Tensor) -> Tensor:
        places = places % len(self._ids)
        if self._text is None:
            return torch.from_numpy(self._ids[places.numpy()].astype(np.int64))
        return self._text[places].long()

    def _replace_some(self, inputs: Tensor, random: np.random.Generator) -> Tensor:
        """Replace a share of the characters by any others, or the same by chance."""
        rate = self._settings.replace_rate
        if not rate:
            return inputs
        # Drawn for all streams, so that each reads the same however they are shared between processes.
        shape = len(inputs), len(self._starts)
        chosen, others = random.random(shape) < rate, random.integers(self._vocab, size=shape)
        return torch.where(self._send(chosen[:, self._part]), self._send(others[:, self._part]), inputs)

    def _send(self, array: NDArray[Any]) -> Tensor:
        return send(torch.from_numpy(array), self._device)


def require_length(chars: int, batch: int, sequence: int, drop_rate: float = 0.0) -> None:
    """Raise CorpusError unless every stream has one window of its own; the message has sizes that would do."""

    def least_chars(batch: int, sequence: int) -> int:
        return batch * int(sequence / (1 - drop_rate)) + 1

    if chars >= least_chars(batch, sequence):
        return
    what = f"the training part has {chars:,} character{'s' * (chars != 1)}, but"
    if chars < least_chars(1, 1):
        raise CorpusError(f"{what} {least_chars(1, 1)} are the least that can be trained on; give more text by --data")
    fitting_batch, fitting_sequence = batch, sequence
    while chars < least_chars(fitting_batch, fitting_sequence):
        if fitting_batch >= fitting_sequence:
            fitting_batch = max(1, fitting_batch // 2)
        else:
            fitting_sequence //= 2
    raise CorpusError(
        f"{what} {batch} streams of {sequence} characters need {least_chars(batch, sequence):,}; "
        f"--batch {fitting_batch} --sequence {fitting_sequence} would do"
    )


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on a device, without waiting: a GPU copies it in its turn, from memory that stays in place."""
    if tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def upload_text(ids: NDArray[np.integer], device: torch.device) -> Tensor | None:
    """Return a text's numbers on a GPU, [N] uint8 or int32; None where they would take too much of its free memory.

    None for the processor too: there they stay mapped from their file.
    """
    return upload(ids, device, np.dtype(np.uint8 if ids.dtype == np.uint8 else np.int32))


def upload(array: NDArray[Any], device: torch.device, kind: np.dtype[Any]) -> Tensor | None:
    """Return an array on a GPU, as numbers of `kind`; None for the processor, and where it would not fit well."""
    if device.type != "cuda" or array.size * kind.itemsize > _GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    # In blocks: a mapped array is never in the host's memory as a whole.
    rows = max(1, _BLOCK * len(array) // array.size)
    blocks = (array[begin : begin + rows].astype(kind) for begin in range(0, len(array), rows))
    return torch.cat([torch.from_numpy(block).to(device) for block in blocks])
