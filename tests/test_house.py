"""The shape of the code: rooms that one can survey, imports without circles, names and docstrings in plain English.

`python -m tests.test_house` prints the figures.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WINGS = ("server", "models", "client", "export", "bundle", "charstream", "loadtest", "benchmarks")
MODULES_OF_A_FOLDER = 12
CHAIN = {"server": 9, "models": 9}
ATTRIBUTES = {"Engine": 14, "TextStream": 16}
ATTRIBUTES_OF_A_CLASS = 20
PARTICIPLES_SHARE = 0.02
RIDDLES = 20
# Verbs and nouns that end as participles do, and participles that do not.
NO_PARTICIPLES = {
    "bed",
    "embed",
    "exceed",
    "feed",
    "need",
    "proceed",
    "red",
    "seed",
    "shed",
    "speed",
    "spread",
    "unembed",
}
IRREGULAR = re.compile(
    "asked|begun|bound|broken|brought|built|chosen|done|drawn|driven|fed|forgotten|found|given|gone|grown|"
    "had|heard|held|kept|known|laid|learnt|led|left|lent|lost|made|meant|met|paid|ridden|risen|said|seen|"
    "sent|shown|sold|spelt|spoken|spent|stood|stuck|taken|taught|thought|thrown|told|understood|won|worn|"
    "written"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every module that is no test and not generated, by dotted name."""
    files = (file for wing in WINGS for file in sorted((ROOT / wing).rglob("*.py")))
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): ast.parse(file.read_text())
        for file in files
        if not re.search(r"_pb2(_grpc)?$", file.stem)
    }


def functions() -> Iterator[tuple[str, Function]]:
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield module, node


def docstrings() -> Iterator[tuple[str, str]]:
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, Function | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
                yield f"{module}.{getattr(node, 'name', '')}", text


def participles() -> list[str]:
    """Functions that are named by a bare participle."""
    names = ((module, function.name) for module, function in functions())
    return [f"{module}.{name}" for module, name in names if _is_participle(name.strip("_"))]


def _is_participle(word: str) -> bool:
    return bool(IRREGULAR.fullmatch(word)) or bool(re.fullmatch(r"[a-z]+ed", word) and word not in NO_PARTICIPLES)


def riddles() -> list[str]:
    """Docstrings that begin with "What" or "Of"."""
    return [where for where, text in docstrings() if re.match(r"(What|Of)\b", text)]


def attributes() -> dict[str, int]:
    """How many attributes each class has that is no declaration of settings, by dotted name."""
    counts = {}
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.endswith("Settings"):
                counts[f"{module}.{node.name}"] = len(_attributes(node))
    return counts


def _attributes(declared: ast.ClassDef) -> set[str]:
    """The fields of its body, and what its methods assign to `self`."""
    found = {
        line.target.id
        for line in declared.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }
    for node in ast.walk(declared):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            found |= {node.attr} if node.value.id == "self" else set()
    return found


@cache
def imports(wing: str) -> dict[str, frozenset[str]]:
    """What each module of a wing imports from the same wing, also only for types."""
    own = {module for module in trees() if module.split(".")[0] == wing}
    return {module: frozenset(_imported(trees()[module], own) - {module}) for module in own}


def _imported(tree: ast.Module, own: set[str]) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & own


def longest_chain(wing: str) -> list[str]:
    """The longest row of modules of which each imports the next one. Raises ValueError for a circle."""
    longest: dict[str, list[str]] = {}

    def follow(module: str, above: tuple[str, ...]) -> list[str]:
        if module in above:
            raise ValueError(" -> ".join([*above, module]))
        if module not in longest:
            chains = [follow(other, (*above, module)) for other in sorted(imports(wing)[module])]
            longest[module] = [module, *max(chains, key=len, default=[])]
        return longest[module]

    return max((follow(module, ()) for module in sorted(imports(wing))), key=len)


def folders() -> dict[Path, int]:
    """How many modules lie in each folder, generated ones and __init__ apart."""
    counts: dict[Path, int] = {}
    for module in trees():
        folder, _, name = module.rpartition(".")
        counts[Path(*folder.split("."))] = counts.get(Path(*folder.split(".")), 0) + (name != "__init__")
    return counts


def test_no_folder_is_crowded() -> None:
    assert {folder: count for folder, count in folders().items() if count > MODULES_OF_A_FOLDER} == {}


@pytest.mark.parametrize("wing", WINGS)
def test_imports_make_no_circle_and_few_floors(wing: str) -> None:
    chain = longest_chain(wing)
    assert len(chain) <= CHAIN.get(wing, len(chain)), " -> ".join(chain)


def test_functions_are_verbs_or_nouns() -> None:
    found = participles()
    assert len(found) < PARTICIPLES_SHARE * sum(1 for _ in functions()), found


def test_docstrings_are_plain_english() -> None:
    assert len(riddles()) < RIDDLES, riddles()
    assert [where for where, text in docstrings() if re.search(r"\bso many\b", text)] == []


def test_no_class_carries_too_much() -> None:
    limits = {name: ATTRIBUTES.get(name.rpartition(".")[2], ATTRIBUTES_OF_A_CLASS) for name in attributes()}
    assert {name: count for name, count in attributes().items() if count > limits[name]} == {}


def test_the_engine_knows_no_asyncio() -> None:
    """import-linter, which holds its other limits, does not see the standard library."""
    engine = {module: tree for module, tree in trees().items() if module.startswith("server.engine.")}
    assert [module for module, tree in engine.items() if _imported(tree, {"asyncio"})] == []


def main() -> None:
    names = list(functions())
    crowded = max(folders().items(), key=lambda item: item[1])
    print(f"functions {len(names):,}, named by a bare participle {len(participles())}")
    print(f"docstrings {sum(1 for _ in docstrings()):,}, beginning with What or Of {len(riddles())}")
    print(f"so many: {sum(len(re.findall(r'so many', text)) for _, text in docstrings())}")
    print(f"most modules in a folder: {crowded[1]} in {crowded[0]}")
    for wing in WINGS:
        try:
            print(f"longest chain of {wing}: {len(longest_chain(wing))}: {' > '.join(longest_chain(wing))}")
        except ValueError as circle:
            print(f"circle in {wing}: {circle}")
    largest = sorted(attributes().items(), key=lambda item: -item[1])[:6]
    print("most attributes: " + ", ".join(f"{name} {count}" for name, count in largest))
    if "--list" in sys.argv:
        print("\n".join([*participles(), *riddles()]))


if __name__ == "__main__":
    main()
