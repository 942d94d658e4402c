"""The simulation of docs/scale.md says of one machine what was measured, and needs more machines for more streams."""

import re
from pathlib import Path

from benchmarks.scale.costs import Costs
from benchmarks.scale.points import compare
from benchmarks.scale.sizes import Demand, Hardware, size

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()


def test_the_simulation_is_within_a_tenth_of_what_was_measured() -> None:
    close = [
        abs(result.chars / point.chars - 1) <= 0.1
        and (not point.messages or abs(result.messages / point.messages - 1) <= 0.1)
        for point, result in compare(Costs(), seconds=2)
        if not point.is_overload
    ]
    assert len(close) == 9
    assert all(close)


def test_the_page_has_the_numbers_that_follow() -> None:
    found = [size(streams, Demand(), Costs(), Hardware()) for streams in (1_000, 100_000, 10_000_000)]
    rows = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|", PAGE, re.MULTILINE)
    told = [tuple(int(number.replace(",", "")) for number in row) for row in rows]
    assert told == [(one.streams, one.servers, one.machines, one.envoys) for one in found]
    for one in found:
        assert one.bottlenecks[:3] == ["engines", "event loops", "Envoy"]
