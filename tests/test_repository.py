"""What newcomers rely on: the habits of other projects, and documents that name what there is."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
OF_TODAY = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
FOLDERS = "bundle|benchmarks|charstream|client|deploy|export|loadtest|models|protos|server|tests"


def test_continuous_integration_runs_what_one_runs_here() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]


def test_hooks_are_the_environments_ruff_with_its_own_exclusions() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"] for hook in repository["hooks"] if hook["language"] == "system"]
    assert entries == [".venv/bin/ruff check --force-exclude", ".venv/bin/ruff format --force-exclude"]


def test_an_issue_asks_for_versions_and_the_servers_first_lines() -> None:
    form = (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text()
    labels = [field["attributes"]["label"] for field in yaml.safe_load(form)["body"]]
    assert any("charstream --version" in label for label in labels)
    assert any("first lines" in label for label in labels)


@pytest.mark.parametrize("document", OF_TODAY, ids=lambda path: path.name)
def test_a_document_names_files_and_modules_that_exist(document: Path) -> None:
    text = document.read_text()
    paths = re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w/.-]*\w\.(?:py|proto|sh|toml|yaml|yml|json))", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    names = {path.name for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*.py")}
    assert [name for name in re.findall(r"`(\w+\.py)`", text) if name not in names] == []
    modules = re.findall(rf"python3? -m ((?:{FOLDERS})[\w.]*\w)", text)
    assert [module for module in modules if not _exists(module)] == []


def _exists(module: str) -> bool:
    place = ROOT.joinpath(*module.split("."))
    return place.with_suffix(".py").exists() or (place / "__main__.py").exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_pages_and_headings(document: Path) -> None:
    for page, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)", document.read_text()):
        target = document.parent / page if page else document
        assert target.exists(), page
        assert not anchor or anchor in _anchors(target), f"{page}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """The headings as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_decision_is_in_the_index() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text()
    linked = set(re.findall(r"\]\(#([^)]+)\)", text.split("\n# ")[0]))
    entries = [heading for heading in re.findall(r"^## (.+)$", text, re.MULTILINE) if heading != "Verdicts"]
    assert len(entries) == len(set(entries))
    assert {re.sub(r"[^\w -]", "", entry.lower()).replace(" ", "-") for entry in entries} == linked
