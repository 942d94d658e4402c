"""`charstream loadtest quick`: in a minute, what a server gives one user and many, and how many it carries."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from charstream.settings import fail, parse
from client.commands.common import one_line_errors
from loadtest.answers.bench import Bench
from loadtest.answers.locust_process import RunFailed
from loadtest.answers.prepare import alone_file, null_limit, served_settings
from loadtest.answers.search import Objective, Search
from loadtest.measures.document import document
from loadtest.measures.gates import figure
from loadtest.origin import describe_origin
from loadtest.report.command import keep_result
from loadtest.settings import LoadtestSettings

__all__ = ["QuickSettings", "main", "words"]

COMMAND = "charstream loadtest quick"
RUN_SECONDS, MANY = 4.0, 64
LEAST_SECONDS = 5.0  # that another load of the search takes
CLOSE = 1.15


class QuickSettings(LoadtestSettings):
    """Says in words, after about a minute, how a server does: for one user, for many, and how many it carries if 99 of
    100 texts shall begin within --first-p99 ms. `find` takes longer and is surer."""

    users: int = Field(MANY, ge=1, description="the many")
    first_p99: float = Field(100.0, gt=0, description="ms within which 99 of 100 texts shall begin")
    minute: float = Field(60.0, gt=0, description="seconds for all of it")


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 if a stream of one user failed, or a text was wrong."""
    settings = parse(QuickSettings, argv, command=COMMAND)
    end = time.monotonic() + settings.minute
    with one_line_errors(COMMAND, settings):
        served_settings_, served = served_settings(settings)
    limit = null_limit(settings)
    with alone_file(served_settings_) as alone:
        bench = Bench(served_settings_, longest=2 * RUN_SECONDS, alone=alone, limit=limit)
        try:
            print(f"{served.name} ({served.cell} {served.layers}x{served.hidden}, {served.precision}):")
            print(words(1, bench.run(1, RUN_SECONDS)), flush=True)
            print(words(settings.users, bench.run(settings.users, RUN_SECONDS)), flush=True)
            capacity, too_much = _capacity(bench, settings, end)
        except RunFailed as error:
            fail(COMMAND, str(error), code=1)
    print(
        f"Capacity: {range_of(capacity, too_much)} with the first character below {settings.first_p99:g} ms for 99 %."
    )
    finding = {"capacity": capacity, "too_much": too_much, "objectives": [f"first p99 below {settings.first_p99:g} ms"]}
    keep_result(settings, document("quick", describe_origin(served), bench.runs, finding))
    for note in sorted({note for run in bench.runs for note in run["notes"]}):
        print(note)
    wrong = any(run["figures"]["differing"] for run in bench.runs)
    return 1 if wrong or not bench.runs[0]["figures"]["finished"] else 0


def _capacity(bench: Bench, settings: QuickSettings, end: float) -> tuple[float, float | None]:
    """Search as long as there is time, from the larger load that is measured already.

    Return the largest load that is kept, and the smallest one that is not.
    """
    objective = Objective("first", 99, settings.first_p99)
    known: dict[float, bool] = {
        run["load"]: (figure(run, "first.p99") or float("inf")) <= settings.first_p99 for run in bench.runs
    }

    def is_kept(load: float, anew: bool) -> bool:
        if time.monotonic() > end - LEAST_SECONDS or anew:
            # No time is left: what is below a load that was kept is kept.
            return known.get(load, any(kept and load <= other for other, kept in known.items()))
        if load not in known:
            known[load] = bench.is_kept(load, [objective])
        return known[load]

    first = settings.users if known.get(settings.users) else 1
    found = Search(is_kept, first=first, most=4096).run()
    return found, min((load for load, kept in known.items() if not kept and load > found), default=None)


def range_of(capacity: float, too_much: float | None) -> str:
    """Return how many users are carried, as far as it is known."""
    if not capacity:
        return "not one user"
    users = f"{capacity:,.0f} user{'s' * (capacity >= 1.5)}"
    if too_much is None:
        return f"at least {users}"
    is_close = too_much - capacity <= 1 or too_much / capacity < CLOSE
    return f"about {users}" if is_close else f"between {capacity:,.0f} and {too_much:,.0f} users"


def words(users: int, run: Mapping[str, Any]) -> str:
    """Return a sentence about a run."""
    first, p99 = figure(run, "first.p50"), figure(run, "first.p99")
    if first is None or p99 is None:
        reason = run["errors"][0]["reason"] if run["errors"] else "no text ended in time"
        return f"{users:,} users: no text came whole: {reason}."
    who = "One user gets" if users == 1 else f"{users:,} users get"
    each = figure(run, "stream-rate.p50") or 0.0
    rate = f"then {each:,.0f} characters a second"
    if users > 1:
        rate = f"and {each:,.0f} characters a second each, {run['figures']['chars-per-second']:,.0f} together"
    failed = f"; {run['figures']['failed']:,} texts failed" if run["figures"]["failed"] else ""
    return f"{who} the first character after {first:.0f} ms (99 of 100 within {p99:.0f} ms), {rate}{failed}."


if __name__ == "__main__":
    sys.exit(main())
