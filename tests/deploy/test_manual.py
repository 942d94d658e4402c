"""docs/operations.md names what there is."""

import re
from pathlib import Path

import pytest
import yaml

from client.commands.flags import StreamSettings
from client.commands.health import HealthSettings
from server.access.token_command import TokenSettings
from server.settings import ServerSettings
from tests.deploy.manifests import DEPLOY, ROOT

MANUAL = (ROOT / "docs" / "operations.md").read_text()
HEADINGS = re.findall(r"^#+ (.+)$", MANUAL, re.MULTILINE)
ALERTS = DEPLOY / "observability" / "alerts.yaml"


def flags(*of: type) -> set[str]:
    return {"--" + name.replace("_", "-") for settings in of for name in settings.model_fields}  # type: ignore[attr-defined]


def test_flags_exist() -> None:
    known = flags(ServerSettings, StreamSettings, HealthSettings, TokenSettings)
    known |= {"--no-log-calls", "--no-playground", "--help", "--json", "--build"}  # the last is Compose's
    named = set(re.findall(r"`(--[a-z0-9-]+)", MANUAL))
    named |= {flag for line in re.findall(r"charstream (?:serve|stream|token) .*", MANUAL) for flag in _flags(line)}
    assert len(named) > 40
    assert named <= known


def _flags(line: str) -> list[str]:
    return re.findall(r"(?<!\S)--[a-z0-9-]+", line.replace("`", " "))


def test_limits_have_their_defaults() -> None:
    rows = re.findall(r"^\| `--([a-z0-9-]+)` \| ([\d,.]+) ", MANUAL, re.MULTILINE)
    assert len(rows) > 25
    for flag, default in rows:
        assert float(default.replace(",", "")) == ServerSettings.model_fields[flag.replace("-", "_")].default, flag


def test_every_limit_is_explained() -> None:
    """A setting that bounds what callers may take, and that operators would look for."""
    bounds = re.compile(r"max_|default_|identity_|connection_|keepalive|_timeout$|_memory$")
    for name in filter(bounds.search, ServerSettings.model_fields):
        assert f"| `--{name.replace('_', '-')}` |" in MANUAL, name


def test_links_lead_somewhere() -> None:
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in HEADINGS}
    assert set(re.findall(r"\]\(#([^)]+)\)", MANUAL)) <= anchors
    for path in re.findall(r"\]\(([a-z]+\.md)\)", MANUAL):
        assert (ROOT / "docs" / path).exists(), path
    for path in re.findall(r"`(deploy/[a-z/]+)`", MANUAL):
        assert (ROOT / path).exists(), path


@pytest.mark.skipif(not ALERTS.exists(), reason="deploy/observability/alerts.yaml is not there")
def test_every_alert_is_explained_under_its_name() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    alerts = [rule for rule in rules if "alert" in rule]
    assert alerts
    for rule in alerts:
        assert rule["alert"] in HEADINGS
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert Path(page).name == "operations.md"
        assert anchor == rule["alert"].lower()
    assert {rule["alert"] for rule in alerts} == set(_headings_below("Alerts"))


def _headings_below(section: str) -> list[str]:
    body = MANUAL.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^### (.+)$", body, re.MULTILINE)
