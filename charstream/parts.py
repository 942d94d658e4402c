"""The folders beside this package, found by their place: whoever calls us may have a client.py or a models.py too.

The command is a process of its own, in which `prefer_own_parts` gives their names to our folders. In somebody's program
`charstream.client` is our client, and `import client` is whatever it would be without us.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType

__all__ = ["load_part", "prefer_own_parts"]

ROOT = Path(__file__).parents[1]
PARTS = ("models", "export", "bundle", "server", "client", "protos", "loadtest")


class _OwnParts(MetaPathFinder):
    """Finds our folders before sys.path is looked through, which begins with the working folder."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [str(ROOT)]) if fullname in PARTS else None


def prefer_own_parts() -> None:
    """Let the names of our folders mean them in this process."""
    if not any(isinstance(finder, _OwnParts) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OwnParts())


def load_part(name: str) -> None:
    """Let `charstream.NAME` be our folder `name`: the very module `name`, unless something else is called so.

    Then our folder is loaded under the name `charstream.NAME`, and the other module keeps its own. For that the modules
    of the folder import each other relatively.
    """
    own, alias = PathFinder.find_spec(name, [str(ROOT)]), f"charstream.{name}"
    assert own is not None
    assert own.origin is not None
    if _is_at(name, own.origin):
        importlib.import_module(name)
        for loaded in [module for module in sys.modules if module == name or module.startswith(f"{name}.")]:
            sys.modules[f"charstream.{loaded}"] = sys.modules[loaded]
        return
    spec = PathFinder.find_spec(alias, [str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[alias] = module_from_spec(spec)
    spec.loader.exec_module(module)


def _is_at(name: str, place: str) -> bool:
    """Return whether `import name` gives the file at `place`."""
    if name in sys.modules:
        found = getattr(sys.modules[name], "__file__", None)
    else:
        spec = find_spec(name)
        found = spec.origin if spec else None
    return found is not None and os.path.exists(found) and os.path.samefile(found, place)
