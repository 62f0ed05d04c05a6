"""Makes Python find this distribution's modules first, even if the user has files of these names.

`trainer` and `recipes` are likely names for a user's own files, and Python searches the user's
folder first. So once `tempering` is imported, these names mean our packages in that process.
"""

import importlib
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

HOME = Path(__file__).resolve().parent.parent
"""The folder that holds `tempering`, `trainer` and `recipes`: site-packages, or a clone."""
ALIAS = "tempering.recipes."
"""The prefix of the second names of the modules in `recipes`."""

logger = logging.getLogger("trainer")


def claim(*names: str) -> None:
    """Make `import <name>` find our module of that name.

    Logs a warning if this hides a user's module. Raises ImportError if a user's module of that name
    has been imported already, since two modules cannot share a name in one process.
    """
    for name in names:
        _refuse_taken(name)
        if name not in _finder.names:
            _warn_of_hidden(name)
            _finder.names.add(name)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


class _Finder(MetaPathFinder):
    """Finds the claimed names in HOME, and `tempering.recipes.<x>` as `recipes.<x>`."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in self.names:
            return PathFinder.find_spec(fullname, [str(HOME)], target)
        if fullname.startswith(ALIAS):
            return spec_from_loader(fullname, _Alias(fullname.removeprefix("tempering.")))
        return None


class _Alias(Loader):
    """Loads a module under a second name: the same object, so its classes are the same, too."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.name)
        self.spec = module.__spec__  # the import system replaces it; exec_module restores it
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


_finder = _Finder()


def _refuse_taken(name: str) -> None:
    module = sys.modules.get(name)
    if module is not None and (other := _users_file(name, module.__spec__)):
        raise ImportError(
            f"tempering: the module name '{name}' is in use by {other}; accepted: another name for "
            "that module, since tempering needs this one"
        )


def _warn_of_hidden(name: str) -> None:
    if other := _users_file(name, PathFinder.find_spec(name)):
        text = "tempering: 'import %s' means tempering's own package in this process, not %s"
        logger.warning(text, name, other)


def _users_file(name: str, spec: ModuleSpec | None) -> str | None:
    """The file of a user's module that has one of our names; None if the module is ours."""
    if spec is None or spec.origin is None:  # no module, or a folder without an __init__.py
        return None
    ours = (HOME / f"{name}.py", HOME / name / "__init__.py")
    return None if Path(spec.origin).resolve() in ours else spec.origin
