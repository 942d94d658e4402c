"""The same flags reach the locustfile whichever command gave them."""

from argparse import ArgumentParser
from pathlib import Path

import pytest

from client.commands.common import Tls
from loadtest.settings import LoadtestSettings, Scenario, Thresholds, add_flags, from_flags, to_flags


def through_locust(settings: LoadtestSettings) -> tuple[Scenario, Thresholds]:
    parser = ArgumentParser()
    add_flags(parser, Scenario)
    add_flags(parser, Thresholds)
    options = parser.parse_args([*to_flags(settings, Scenario), *to_flags(settings, Thresholds)])
    return from_flags(Scenario, options), from_flags(Thresholds, options)


def test_defaults_are_the_same_on_both_sides() -> None:
    assert through_locust(LoadtestSettings()) == (Scenario(), Thresholds())


def test_what_was_given_arrives_unchanged() -> None:
    scenario = Scenario(prompt=("--a", "b\nc"), model="tiny", max_chars=5, temperature=0, wait=0.5)
    thresholds = Thresholds(max_first_char_p99=1.5, max_gap_p99=2, min_chars_per_second=3, max_failures=4)
    settings = LoadtestSettings(**scenario.model_dump(), **thresholds.model_dump())
    assert through_locust(settings) == (scenario, thresholds)


@pytest.mark.parametrize("tls", [Tls(), Tls(tls=True), Tls(tls_ca=Path("a b.pem"))])
def test_tls_arrives_too(tls: Tls) -> None:
    parser = ArgumentParser()
    add_flags(parser, Tls)
    assert from_flags(Tls, parser.parse_args(to_flags(LoadtestSettings(**tls.model_dump()), Tls))) == tls
