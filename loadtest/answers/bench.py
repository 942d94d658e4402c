"""A bench that measures one load after the other, for answers that need several runs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.answers.locust_process import run_locust
from loadtest.answers.search import Judgement, Objective, judge
from loadtest.live import count_users
from loadtest.measures.document import Document
from loadtest.settings import LoadtestSettings

__all__ = ["Bench"]

NEEDED = 10  # streams beyond a percentile, on average, that decide it
FIRST_SECONDS, LONGEST_SECONDS = 3.0, 30.0
WARMUP = 0.5
MOST_RUNS = 5


class Bench:
    """Runs a scenario at one load after the other: users, or in an open loop arrivals a second.

    Args:
        longest: seconds that one load may be measured in all.
        alone: file with texts to compare with.
    """

    def __init__(
        self,
        settings: LoadtestSettings,
        *,
        longest: float = 60.0,
        alone: Path | None = None,
        limit: float | None = None,
    ) -> None:
        changes = {"alone": alone, "null_limit": limit, "warmup": WARMUP, "require": ()}
        self._settings, self._longest = settings.model_copy(update=changes), longest
        self.runs: list[Document] = []

    def run(self, load: float, seconds: float) -> Document:
        """Run a load once. Raises RunFailed."""
        change = {"rate": load} if self._settings.is_open else {"users": round(load)}
        found = run_locust(self._settings.model_copy(update=change), seconds + WARMUP)
        found["load"] = load
        self.runs.append(found)
        return found

    def is_kept(self, load: float, objectives: Sequence[Objective], *, anew: bool = False) -> bool:
        """Return whether every objective is kept at a load: in the first look at it, or in the next two.

        A machine that stands still for a moment makes one look worse than the load is, and none better.

        Args:
            anew: for a load that was measured before: look for longer.

        Raises:
            RunFailed
        """
        first = 2 * FIRST_SECONDS if anew else FIRST_SECONDS
        return self._look(load, objectives, first) or all(self._look(load, objectives, first) for _ in range(2))

    def _look(self, load: float, objectives: Sequence[Objective], seconds: float) -> bool:
        """Measure a load until it is clear whether every objective is kept, or its time is over."""
        runs, spent = list[Document](), 0.0
        while True:
            runs.append(self.run(load, seconds))
            spent += seconds
            found = {each: judge(runs, each, needed(each)) for each in objectives}
            verdicts = {each.verdict for each in found.values()}
            if "missed" in verdicts or "open" not in verdicts or spent >= self._longest or len(runs) >= MOST_RUNS:
                kept = all(_decide(each, objective) for objective, each in found.items())
                self._say(load, found, kept=kept)
                return kept
            seconds = min(2 * seconds, LONGEST_SECONDS, max(FIRST_SECONDS, self._longest - spent))

    def _say(self, load: float, found: dict[Objective, Judgement], *, kept: bool) -> None:
        amount = f"{load:,.4g} texts/s" if self._settings.is_open else count_users(round(load))
        details = ", ".join(
            f"{objective.measure} p{objective.percent:g} {each.estimate:.1f} ms ({each.streams:,} streams)"
            for objective, each in found.items()
        )
        print(f"{amount}: {details}: {'kept' if kept else 'missed'}", file=sys.stderr)


def needed(objective: Objective) -> int:
    """Return the streams after which an estimate of the percentile is good enough."""
    return round(NEEDED / (1 - objective.percent / 100))


def _decide(found: Judgement, objective: Objective) -> bool:
    """Return whether the objective is kept; where it is open after all time, by the estimate."""
    return found.is_kept or (found.verdict == "open" and found.streams > 0 and found.estimate <= objective.limit)
