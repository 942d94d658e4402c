"""The shape of the code: rooms that one can survey, imports without circles, names and docstrings in plain English.

`python -m tests.test_house` prints the figures; with `--list`, also where they come from.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest

from tests.forked import PRELOADED

ROOT = Path(__file__).parents[1]
WINGS = ("server", "models", "client", "export", "bundle", "charstream", "loadtest", "benchmarks")
MODULES_OF_A_FOLDER = 12
CHAIN = {"server": 9, "models": 9}
ATTRIBUTES = {"Engine": 14, "TextStream": 16}
ATTRIBUTES_OF_A_CLASS = 20
PARTICIPLES_SHARE = 0.02
RIDDLES = 20
# Declarations of flags and options: their fields are what users may set.
DECLARATIONS = {"Settings", "TypedDict"}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
NO_PARTICIPLES = {"embed", "exceed", "feed", "need", "proceed", "seed", "speed", "unembed"}
# Without those that are the infinitive too (read, set, split), and `hidden`, as in hidden units.
IRREGULAR = re.compile(
    "(un|re|over)?(asked|begun|bent|bound|bought|broken|brought|built|caught|chosen|dealt|done|drawn|driven|"
    "eaten|fallen|fed|felt|forgotten|fought|found|frozen|given|gone|grown|had|heard|held|hung|kept|known|laid|learnt|"
    "led|left|lent|lost|made|meant|met|paid|ridden|risen|said|seen|sent|shaken|shown|slept|sold|sought|spelt|spent|"
    "spoken|spun|stolen|stood|struck|stuck|swept|taken|taught|thought|thrown|told|torn|understood|withdrawn|withheld|"
    "woken|won|worn|woven|written)"
)


@cache
def sources() -> dict[str, str]:
    """The text of every module that is no test and not generated, by dotted name; a package's is its `__init__`."""
    files = (file for wing in WINGS for file in sorted((ROOT / wing).rglob("*.py")))
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file.read_text()
        for file in files
        if not re.search(r"_pb2(_grpc)?$", file.stem)
    }


@cache
def trees() -> dict[str, ast.Module]:
    return {module: ast.parse(text) for module, text in sources().items()}


def nodes() -> Iterator[tuple[str, ast.AST]]:
    return ((module, node) for module, tree in trees().items() for node in ast.walk(tree))


def functions() -> list[str]:
    """The dotted names of all functions, methods and properties."""
    return [f"{module}.{node.name}" for module, node in nodes() if isinstance(node, FUNCTION)]


def participles() -> list[str]:
    """The functions that are named by a bare participle."""
    return [name for name in functions() if _is_participle(name.rpartition(".")[2].strip("_"))]


def _is_participle(word: str) -> bool:
    return bool(IRREGULAR.fullmatch(word) or (re.fullmatch("[a-z]+ed", word) and word not in NO_PARTICIPLES))


def docstrings() -> Iterator[tuple[str, str]]:
    for module, node in nodes():
        if isinstance(node, (*FUNCTION, ast.ClassDef, ast.Module)) and (text := ast.get_docstring(node)):
            yield f"{module}.{getattr(node, 'name', '')}", text


def riddles() -> list[str]:
    """The docstrings that begin with "What" or "Of"."""
    return [where for where, text in docstrings() if re.match(r"(What|Of)\b", text)]


def so_many() -> list[str]:
    """The docstrings and the modules' comments that say "so many". (Help texts of flags may: users know them.)"""
    comments = ((module, _comments(text)) for module, text in sources().items())
    return [where for where, text in [*docstrings(), *comments] if re.search(r"\bso\s+many\b", text)]


def _comments(text: str) -> str:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return " ".join(token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)


def attributes() -> dict[str, int]:
    """How many attributes each class has, inherited ones too, by dotted name; declarations of settings apart."""
    classes = [(module, node) for module, node in nodes() if isinstance(node, ast.ClassDef)]
    named: dict[tuple[str, str], list[ast.ClassDef]] = {}  # by wing and name
    for module, node in classes:
        named.setdefault((module.partition(".")[0], node.name), []).append(node)

    def family(wing: str, node: ast.ClassDef) -> tuple[set[str], set[str]]:
        """The names of all its base classes, and its attributes; bases of other wings are settings at most."""
        above, found = set(), _own_attributes(node)
        for base in (ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases):
            above.add(base)
            for other in named.get((wing, base), ()) if base != node.name else ():
                names, inherited = family(wing, other)
                above, found = above | names, found | inherited
        return above, found

    families = {f"{module}.{node.name}": family(module.partition(".")[0], node) for module, node in classes}
    return {name: len(found) for name, (above, found) in families.items() if not above & DECLARATIONS}


def _own_attributes(declared: ast.ClassDef) -> set[str]:
    """The fields that its body declares, and what its methods assign to `self`."""
    found = {
        line.target.id
        for line in declared.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        if "ClassVar" not in ast.unparse(line.annotation)
    }
    for node in ast.walk(declared):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
    return found


@cache
def imports(wing: str) -> dict[str, set[str]]:
    """The modules of its own wing that each module imports, at its top or later, also if only for types."""
    own = {re.sub(r"\.__init__$", "", module): tree for module, tree in trees().items()}
    own = {module: tree for module, tree in own.items() if module.partition(".")[0] == wing}
    return {module: {*_imported(module, tree, set(own))} - {module} for module, tree in own.items()}


def _imported(module: str, tree: ast.Module, own: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in own)
        elif isinstance(node, ast.ImportFrom):
            source = _imported_from(module, node)
            for name in (f"{source}.{alias.name}" for alias in node.names):
                yield from [name] if name in own else {source} & own


def _imported_from(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return str(node.module)
    assert module.startswith("client"), f"{module}: imports are absolute (the client's: see charstream/parts.py)"
    assert node.level == 1, f"{module}: a relative import is of the same folder"
    return f"{module if f'{module}.__init__' in trees() else module.rpartition('.')[0]}.{node.module}"


def longest_chain(wing: str) -> list[str]:
    """The longest row of modules of which each imports the next one. Raises ValueError for a circle."""
    longest: dict[str, list[str]] = {}

    def follow(module: str, above: tuple[str, ...]) -> list[str]:
        if module in above:
            raise ValueError(" -> ".join([*above[above.index(module) :], module]))
        if module not in longest:
            chains = [follow(other, (*above, module)) for other in sorted(imports(wing)[module])]
            longest[module] = [module, *max(chains, key=len, default=[])]
        return longest[module]

    return max((follow(module, ()) for module in sorted(imports(wing))), key=len)


def folders() -> Counter[str]:
    """How many modules lie in each folder, generated ones and `__init__` apart."""
    places = (module.rpartition(".") for module in trees())
    return Counter(folder for folder, _, name in places if name != "__init__")


def test_no_folder_is_crowded() -> None:
    assert {folder: count for folder, count in folders().items() if count > MODULES_OF_A_FOLDER} == {}


@pytest.mark.parametrize("wing", WINGS)
def test_imports_make_no_circle_and_few_floors(wing: str) -> None:
    chain = longest_chain(wing)
    assert len(chain) <= CHAIN.get(wing, len(chain)), " -> ".join(chain)


def test_all_tests_fork_from_one_process_that_has_the_servers_imports() -> None:
    """multiprocessing keeps one list for all, and the last module that sets it would take everything else out of it."""
    assert forkserver._forkserver._preload_modules == [*PRELOADED]  # type: ignore[attr-defined]


def test_functions_are_verbs_or_nouns() -> None:
    found = participles()
    assert len(found) < PARTICIPLES_SHARE * len(functions()), found


def test_docstrings_are_plain_english() -> None:
    assert len(riddles()) < RIDDLES, riddles()
    assert so_many() == []


def test_no_class_carries_too_much() -> None:
    limits = {name: ATTRIBUTES.get(name.rpartition(".")[2], ATTRIBUTES_OF_A_CLASS) for name in attributes()}
    assert {name: count for name, count in attributes().items() if count > limits[name]} == {}
    assert set(ATTRIBUTES) <= {name.rpartition(".")[2] for name in limits}


def test_the_engine_knows_no_asyncio() -> None:
    """import-linter, which holds its other limits, does not see the standard library."""
    engine = {module: tree for module, tree in trees().items() if module.startswith("server.engine.")}
    assert [module for module, tree in engine.items() if any(_imported(module, tree, {"asyncio"}))] == []


def main() -> None:
    print(f"modules {len(trees())}, lines {sum(len(text.splitlines()) for text in sources().values()):,}")
    print(f"functions {len(functions()):,}, named by a bare participle {len(participles())}")
    print(f"docstrings {sum(1 for _ in docstrings()):,}, beginning with What or Of {len(riddles())}")
    print(f'docstrings and modules\' comments that say "so many": {len(so_many())}')
    print("most modules in a folder: " + ", ".join(f"{folder} {count}" for folder, count in folders().most_common(3)))
    for wing in WINGS:
        try:
            print(f"longest chain of {wing}: {len(longest_chain(wing))}: {' > '.join(longest_chain(wing))}")
        except ValueError as circle:
            print(f"circle in {wing}: {circle}")
    largest = Counter(attributes()).most_common(8)
    print("most attributes: " + ", ".join(f"{name} {count}" for name, count in largest))
    if "--list" in sys.argv:
        print("\n".join([*participles(), *riddles(), *so_many()]))


if __name__ == "__main__":
    main()
