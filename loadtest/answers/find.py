"""`charstream loadtest find`: how many users, or texts a second, a server carries within limits."""

import sys
from collections.abc import Sequence

from pydantic import Field, model_validator

from charstream.settings import fail, parse
from client.commands.common import one_line_errors
from loadtest.answers.bench import Bench
from loadtest.answers.locust_process import RunFailed
from loadtest.answers.prepare import alone_file, null_limit, served_settings
from loadtest.answers.search import Objective, Search
from loadtest.live import count_users
from loadtest.measures.document import document
from loadtest.origin import describe_origin
from loadtest.report.command import keep_result
from loadtest.settings import LoadtestSettings

__all__ = ["FindSettings", "main", "objectives_of"]

COMMAND = "charstream loadtest find"


class FindSettings(LoadtestSettings):
    """Finds the largest number of users that a server carries within limits, or with `--scenario open` the largest
    number of texts a second, to 5 %.

    The load doubles from --first on (with open: from --rate on) until a limit is missed, is then bisected, and the
    result is measured once more. A point lasts until its percentiles are clear, 3 s at least; a search
    takes about four minutes.
    """

    first_p99: float | None = Field(None, gt=0, description="99 of 100 texts begin within so many ms")
    gap_p99: float | None = Field(None, gt=0, description="99 of 100 texts have a p99 gap of at most so many ms")
    per_char_p99: float | None = Field(None, gt=0, description="99 of 100 texts take at most so many ms a character")
    whole_p99: float | None = Field(None, gt=0, description="99 of 100 texts are whole within so many ms")
    first: int = Field(1, ge=1, description="users to begin with")
    most: int = Field(1024, ge=1, description="users, or texts a second, that are not exceeded")
    point_seconds: float = Field(60.0, gt=0, description="the most seconds for one load")

    @model_validator(mode="after")
    def _has_limits(self) -> "FindSettings":
        if not objectives_of(self):
            raise ValueError("--first-p99, --gap-p99, --per-char-p99 or --whole-p99 is needed: the limits to keep")
        return self


def objectives_of(settings: FindSettings) -> list[Objective]:
    given = {
        "first": settings.first_p99,
        "gap-p99": settings.gap_p99,
        "per-char": settings.per_char_p99,
        "whole": settings.whole_p99,
    }
    return [Objective(measure, 99, limit) for measure, limit in given.items() if limit is not None]


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 if some load keeps the limits and every text was right, else 1."""
    settings = parse(FindSettings, argv, command=COMMAND)
    with one_line_errors(COMMAND, settings):
        served_settings_, served = served_settings(settings)
    objectives, limit = objectives_of(settings), null_limit(settings, users=64)
    with alone_file(served_settings_) as alone:
        bench = Bench(served_settings_, longest=settings.point_seconds, alone=alone, limit=limit)
        first = settings.rate if settings.is_open and settings.rate else settings.first
        search = Search(
            lambda load, anew: bench.is_kept(load, objectives, anew=anew),
            first=first,
            most=settings.most,
            whole=not settings.is_open,
        )
        try:
            found = search.run()
        except RunFailed as error:
            fail(COMMAND, str(error), code=1)
    kept = [run for run in bench.runs if run["load"] == found]
    chars = max((run["figures"]["chars-per-second"] for run in kept), default=0.0)
    amount = f"{found:,.4g} texts a second" if settings.is_open else count_users(round(found))
    limits = " and ".join(map(str, objectives))
    print(f"{amount} with {limits}: {chars:,.0f} characters a second ({served.name})")
    if found >= settings.most:
        print(f"{COMMAND}: it may be more: --most is {settings.most:,}", file=sys.stderr)
    for run in kept[-1:]:
        print(*run["notes"], sep="\n", end="\n" if run["notes"] else "")
    finding = {
        "capacity": found,
        "unit": "texts a second" if settings.is_open else "users",
        "objectives": list(map(str, objectives)),
    }
    keep_result(settings, document("find", describe_origin(served), bench.runs, finding))
    return 0 if found and not any(run["figures"]["differing"] for run in bench.runs) else 1


if __name__ == "__main__":
    sys.exit(main())
