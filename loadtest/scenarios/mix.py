"""The kinds of calls that a load test makes, by weights from a TOML file."""

import random
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from charstream.settings import Settings
from loadtest.scenarios.calls import Action, Call

__all__ = ["STANDARD", "Entry", "Mix"]

STANDARD = Path(__file__).with_name("mixed.toml")


def _as_range(value: Any) -> Any:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


Length = Annotated[int, Field(ge=1)]
Range = Annotated[tuple[Length, Length], BeforeValidator(_as_range)]  # least and most


class Entry(Settings):
    """One kind of call."""

    name: str = Field(min_length=1)
    weight: float = Field(1.0, gt=0)
    action: Action = "generate"
    max_chars: Range = (200, 200)
    prompt_chars: Range | None = None
    temperature: float | None = Field(None, ge=0)
    n: int = Field(1, ge=1)
    pause: float = Field(0.0, ge=0)


class Mix(Settings):
    """The kinds of calls. Whoever draws with the same random numbers draws the same calls."""

    call: tuple[Entry, ...] = Field(min_length=1)

    @classmethod
    def read(cls, file: Path) -> "Mix":
        """Raises ValueError: it can't be read, or it is no mix."""
        try:
            return cls.model_validate(tomllib.loads(file.read_text("utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"--mix {file}: {getattr(error, 'strerror', None) or error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"--mix {file}: {place}: {first['msg']}; {STANDARD} is an example") from None

    def draw(
        self, chance: random.Random, prompts: Sequence[str], number: int, seed: int, temperature: float | None = None
    ) -> Call:
        """Return a call of a random kind; `number` says which prompt's turn it is, `temperature` is the default."""
        entry = chance.choices(self.call, [each.weight for each in self.call])[0]
        prompt = prompts[number % len(prompts)]
        if entry.prompt_chars:
            prompt = stretch(prompts, number, chance.randint(*entry.prompt_chars))
        return Call(
            entry.name,
            prompt,
            seed,
            chance.randint(*entry.max_chars),
            entry.action,
            temperature if entry.temperature is None else entry.temperature,
            entry.n,
            place=chance.uniform(0.1, 0.9) if entry.action in ("cancel", "resume") else 0.5,
            pause=entry.pause,
        )


def stretch(prompts: Sequence[str], number: int, chars: int) -> str:
    """Return a prompt of that length: the prompts one after the other, from that number on, as often as needed."""
    first = number % len(prompts)
    line = "".join([*prompts[first:], *prompts[:first]]) or " "
    return (line * (chars // len(line) + 1))[:chars]
