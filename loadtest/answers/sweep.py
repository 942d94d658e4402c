"""`charstream loadtest sweep`: throughput against latency, load by load."""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from charstream.settings import Positional, fail, parse
from client.commands.common import one_line_errors
from loadtest.answers.bench import Bench
from loadtest.answers.locust_process import RunFailed
from loadtest.answers.prepare import alone_file, null_limit, served_settings
from loadtest.answers.saturation import is_past_the_peak, is_saturated, knee
from loadtest.measures.document import document
from loadtest.measures.gates import figure
from loadtest.origin import describe_origin
from loadtest.report.command import keep_result
from loadtest.settings import LoadtestSettings

__all__ = ["SweepSettings", "main", "parse_loads"]

COMMAND = "charstream loadtest sweep"
POINT_SECONDS = 8


class SweepSettings(LoadtestSettings):
    """Measures one number of users after the other, or with `--scenario open` one rate, and marks the knee: the load
    beyond which latency grows by more than throughput does. Stops early where more load brings nothing more."""

    loads: Annotated[str, Positional()] = Field(
        "1,2,4,...,64", description="users, or texts a second: 1,2,4,...,256 goes on as it begins"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_rate(cls, values: Any) -> Any:
        """The loads are the rates of an open loop."""
        if isinstance(values, dict) and values.get("scenario") == "open":
            values = {"rate": 1.0, **values}
        return values

    @model_validator(mode="after")
    def _has_loads(self) -> "SweepSettings":
        parse_loads(self.loads)
        return self


def parse_loads(text: str) -> list[float]:
    """Read "1,2,4,...,256": after the dots, in the ratio of the two before, or in their difference if that fits better.

    Raises ValueError.
    """
    words = text.replace("…", "...").split(",")
    if not all(re.fullmatch(r"\d+(\.\d+)?", word) for word in words if word != "...") or words.count("...") > 1:
        raise ValueError(f"LOADS: {text!r} is no list of loads: 1,2,4,8 or 1,2,4,...,256 is expected")
    loads = [float(word) for word in words if word != "..."]
    if "..." in words:
        at = words.index("...")
        if at < 2 or at != len(words) - 2:
            raise ValueError(f"LOADS: {text!r}: the dots follow two loads, and the last load follows them")
        loads = [*loads[:at], *_between(loads[:at], loads[-1]), loads[-1]]
    if not loads or loads != sorted(set(loads)) or not loads[0]:
        raise ValueError(f"LOADS: {text!r}: loads from above 0, upwards, are expected")
    return loads


def _between(first: Sequence[float], last: float) -> list[float]:
    difference, ratio = first[-1] - first[-2], first[-1] / first[-2]
    is_line = len(first) > 2 and abs(first[-2] - first[-3] - difference) < 1e-9
    found, following = list[float](), first[-1]
    while len(found) < 1000:
        following = following + difference if is_line else following * ratio
        if following >= last * 0.999:
            break
        found.append(following)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 if a text was wrong, or no stream finished."""
    settings = parse(SweepSettings, argv, command=COMMAND)
    with one_line_errors(COMMAND, settings):
        served_settings_, served = served_settings(settings)
    loads, limit = parse_loads(settings.loads), null_limit(settings, users=64)
    runs = []
    with alone_file(served_settings_) as alone:
        bench = Bench(served_settings_, alone=alone, limit=limit)
        print(sweep_head(is_open=settings.is_open))
        for load in loads:
            try:
                runs.append(bench.run(load, settings.seconds or POINT_SECONDS))
            except RunFailed as error:
                fail(COMMAND, str(error), code=1)
            print(sweep_row(runs[-1]), flush=True)
            if is_saturated(runs[-1]["series"]) if settings.is_open else is_past_the_peak(runs):
                print("saturated: more load brings no more", file=sys.stderr)
                break
    found = knee(runs)
    unit = "texts a second" if settings.is_open else "users"
    print(
        f"the knee is at {found['load']:,.4g} {unit}: {found['figures']['chars-per-second']:,.0f} characters a second, "
        f"first character after {figure(found, 'first.p50') or 0:.1f} ms, p99 {figure(found, 'first.p99') or 0:.1f} ms "
        f"({served.name})"
    )
    for note in sorted({note for run in runs for note in run["notes"]}):
        print(note)
    finding = {"knee": found["load"], "unit": unit}
    keep_result(settings, document("sweep", describe_origin(served), runs, finding))
    return 0 if found["figures"]["finished"] and not any(run["figures"]["differing"] for run in runs) else 1


COLUMNS = (
    ("chars/s", "chars-per-second", 0),
    ("first p50", "first.p50", 1),
    ("first p99", "first.p99", 1),
    ("gap p50", "gap.p50", 1),
    ("gap p99", "gap.p99", 1),
    ("whole p50", "whole.p50", 0),
    ("failed", "failed", 0),
)


def sweep_head(*, is_open: bool) -> str:
    names = "".join(f"{name:>11}" for name, _, _ in COLUMNS)
    return f"{'texts/s' if is_open else 'users':>8}{names}   (times in ms)"


def sweep_row(run: Mapping[str, Any]) -> str:
    cells = ((figure(run, name), digits) for _, name, digits in COLUMNS)
    return f"{run['load']:>8,.4g}" + "".join(
        "          -" if value is None else f"{value:>11,.{digits}f}" for value, digits in cells
    )


if __name__ == "__main__":
    sys.exit(main())
