"""The parts of a text: one to train on, one to validate on, and one that is left for the end."""

from fractions import Fraction

__all__ = ["DEFAULT_SPLIT", "PARTS", "part_ends", "shares", "trains_on_more"]

PARTS = ("training", "validation", "test")
DEFAULT_SPLIT = "0.9,0.1"


def shares(split: str) -> tuple[Fraction, ...]:
    """Return the shares of training, validation and test in `split`: one to three numbers that add up to 1.

    Raises:
        ValueError: they are not; the message is one line.
    """
    try:
        found = tuple(Fraction(share.strip()) for share in split.split(","))
    except (ValueError, ZeroDivisionError):
        found = ()
    if not 1 <= len(found) <= len(PARTS) or found[0] <= 0 or min(found) < 0 or sum(found) != 1:
        raise ValueError(
            f"--split {split}: expected the shares of training, validation and test, which add up to 1, "
            "such as 0.9,0.1 or 0.8,0.1,0.1, or 1 for training alone"
        )
    return found


def part_ends(split: str, symbols: int) -> tuple[int, int, int]:
    """Return where the parts of a text end, in symbols: each begins where the one before it ends.

    Exact fractions, rounded down; the last share ends with the text. Raises ValueError as `shares`.
    """
    given = shares(split)
    ends = [int(sum(given[: number + 1]) * symbols) for number in range(len(PARTS))]
    return ends[0], ends[1], ends[2]


def trains_on_more(split: str, other: str) -> bool:
    """Return whether the training part of `split` reaches beyond that of `other`; False where one is not known.

    Raises ValueError as `shares`.
    """
    return bool(split and other) and shares(split)[0] > shares(other)[0]
