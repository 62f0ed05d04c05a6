"""Registry: finds families, heads, recipes and other parts by name, also in other packages."""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trainer.errors import InputError, nearest

OWN_PACKAGES = ("trainer", "recipes")
"""The packages of this project, which are always trusted."""


@dataclass(frozen=True)
class Kind:
    """A kind of part that other packages may add.

    A part is a module: `<home>/<name>.py` in this project, `<package>/<kind>/<name>.py` in a
    package that the user trusts, or an entry point `<name>` of the group `tempering.<kind>`.
    """

    name: str
    """The plural: the folder in a trusted package, and the end of the entry points' group."""
    one: str
    """The singular, for messages."""
    home: str
    """The package of this project whose modules are parts of this kind."""
    attribute: str | None = None
    """The name that the module must define; None: it must define a class named after the file
    (`MyPart` in `my_part.py`), optionally followed by `suffix`."""
    suffix: str = ""
    """An optional suffix of the class's name."""
    no_parts: frozenset[str] = frozenset()
    """Modules of the home that are not parts."""
    lists: str | None = None
    """The `module:function` that returns this project's parts as {name: "module:attribute"}; None:
    each module of the home is one part."""


FAMILIES = Kind("families", "model family", "trainer.models.families", "FAMILY")
HEADS = Kind(
    "heads",
    "head",
    "trainer.models.heads",
    "HEAD",
    no_parts=frozenset({"layers", "losses", "projection"}),
)
RECIPES = Kind("recipes", "recipe", "recipes")
METRICS = Kind("metrics", "metric", "trainer.metrics", lists="trainer.metrics.named:own_metrics")
OPTIMIZERS = Kind(
    "optimizers",
    "optimizer",
    "trainer.training.optimizers",
    "build",
    lists="trainer.training.optim:own_optimizers",
)
CALLBACKS = Kind(
    "callbacks", "callback", "trainer.callbacks", no_parts=frozenset({"callback", "trackers"})
)
CHAT_FORMATS = Kind("chat_formats", "chat format", "recipes.chat_formats", "read")
"""`read(rows)` converts each row to messages; `recipes/instruction.py` has the usual formats."""

KINDS = {
    kind.name: kind
    for kind in (FAMILIES, HEADS, RECIPES, METRICS, OPTIMIZERS, CALLBACKS, CHAT_FORMATS)
}


INSTALLED = "installed: "
"""The prefix of `Entry.source` for entry points of installed packages."""


@dataclass(frozen=True)
class Entry:
    """The location of a part that has not been imported yet."""

    name: str
    module: str
    attribute: str | None
    """The name of the part in the module; None: found as `Kind.attribute` describes."""
    source: str
    """The trusted package, or INSTALLED and a distribution's name; empty for this project."""

    @property
    def installed(self) -> bool:
        """Whether it comes from an entry point; it is then imported only if its name is used."""
        return self.source.startswith(INSTALLED)

    def __str__(self) -> str:
        return f"{self.module} ({self.source or 'this package'})"


_trusted: list[str] = []


def trust(*packages: str) -> None:
    """Allow these packages' parts to be found by name, and their classes to be used as `_target_`.

    Only the user may decide this, on the command line with `trusted_packages=[...]`. The packages
    stay trusted until the process ends. Raises InputError for a package that does not exist.
    """
    for package in packages:
        if not all(part.isidentifier() for part in package.split(".")):
            raise InputError(f"trusted_packages: found {package!r}; accepted: package names")
        if not _exists(package):
            found = f"no module '{package}' (is it installed, on PYTHONPATH?)"
            raise InputError(f"trusted_packages: {found}; accepted: packages that can be imported")
        if package not in _trusted:
            _trusted.append(package)


def trusted() -> tuple[str, ...]:
    """The packages that the user trusts, in addition to this project's own."""
    return tuple(_trusted)


def find(kind: Kind, name: object, where: str) -> Any:
    """Import and return the part of this kind with this name.

    Raises InputError, which starts with `where`, if no part or several parts have this name.
    """
    entry = locate(kind, name) if isinstance(name, str) else None
    if entry is None:
        raise unknown(kind, name, where)
    return load(kind, entry)


def locate(kind: Kind, name: str) -> Entry | None:
    """The location of the part with this name, without importing it; None if there is none.

    Raises InputError if two packages have a part with this name.
    """
    wanted = spelled(name)
    found = {each.module: each for each in entries(kind) if spelled(each.name) == wanted}
    if len(found) > 1:
        places = " and ".join(map(str, found.values()))
        raise InputError(
            f"{kind.one} '{name}': found twice: {places}; accepted: one of them: rename yours, "
            "or do not trust or install the other package"
        )
    return next(iter(found.values()), None)


def entries(kind: Kind) -> list[Entry]:
    """All parts of a kind: this project's, then those of trusted, then of installed packages."""
    found = own_entries(kind)
    for package in trusted():
        found += _modules(kind, f"{package}.{kind.name}", package)
    return [*found, *_installed(kind, tuple(sys.path))]


def own_names(kind: Kind) -> list[str]:
    """The names of the modules that are parts of a kind, in the kind's home package."""
    return [each.name for each in _modules(kind, kind.home, "")]


def load(kind: Kind, entry: Entry) -> Any:
    """Import a part. Raises InputError if its module does not define what the kind needs."""
    module = importlib.import_module(entry.module)
    attribute = entry.attribute or kind.attribute
    if attribute is not None:
        if not hasattr(module, attribute):
            raise InputError(f"{entry}: found no {attribute}; accepted: a module that defines it")
        return getattr(module, attribute)
    wanted = spelled(entry.name).replace("_", "")
    accepted = {wanted, wanted + kind.suffix.lower()}
    for name, value in vars(module).items():
        if name.lower() in accepted and isinstance(value, type):
            return value
    title = entry.name.title().replace("_", "").replace("-", "") + kind.suffix
    raise InputError(f"{entry}: found no class named after the file; accepted: a class {title}")


def spelled(name: str) -> str:
    """A name as modules spell it: in lower case, with _ in place of -."""
    return name.replace("-", "_").lower()


def unknown(kind: Kind, name: object, where: str, own: Sequence[str] | None = None) -> InputError:
    """The error for an unknown name, which lists the known parts and where they come from.

    `own` are this project's names, if these differ from the names of the modules.
    """
    own = [each.name for each in own_entries(kind)] if own is None else own
    others = [each for each in entries(kind) if each.source]
    shown = [*own, *(f"{each.name} ({each.source})" for each in others)]
    names = [*own, *(each.name for each in others)]
    hint = nearest(str(name).lower(), [each.lower() for each in names])
    more = "" if trusted() else f" (trusted_packages=[...] adds {kind.name} of other packages)"
    accepted = ", ".join(shown)
    return InputError(f"{where}: found {name!r}; accepted: {accepted}{hint}{more}")


def is_installed(kind: Kind, target: str) -> bool:
    """Whether an installed entry point names the class at this dotted path."""
    module, _, attribute = target.rpartition(".")
    return any(
        each.module == module and each.attribute in (None, attribute)
        for each in _installed(kind, tuple(sys.path))
    )


def package_of(target: str) -> str:
    """The package to trust for a dotted path: everything before the folder of a kind."""
    kinds = "|".join(KINDS)
    found = re.fullmatch(rf"(.+?)\.(?:{kinds})(?:\.\w+)+", target)
    return found[1] if found else target.partition(".")[0]


def own_entries(kind: Kind) -> list[Entry]:
    """This project's parts of a kind."""
    if kind.lists is None:
        return list(_modules(kind, kind.home, ""))
    module, _, function = kind.lists.partition(":")
    listed: Mapping[str, str] = getattr(importlib.import_module(module), function)()
    return [Entry(name, *_split(target), "") for name, target in listed.items()]


def _split(target: str) -> tuple[str, str | None]:
    module, _, attribute = target.partition(":")
    return module, attribute or None


def _modules(kind: Kind, folder: str, source: str) -> Iterator[Entry]:
    """The modules in a package. The package is imported, its modules are not."""
    for module in pkgutil.iter_modules(_path_of(folder)):
        if not module.name.startswith("_") and (source or module.name not in kind.no_parts):
            yield Entry(module.name, f"{folder}.{module.name}", None, source)


def _path_of(package: str) -> list[str]:
    """The folders of a package; none if there is no such package."""
    spec = importlib.util.find_spec(package) if _exists(package) else None
    return list(spec.submodule_search_locations or []) if spec else []


def _exists(module: str) -> bool:
    """Whether there is a module with this name. Its parent packages are imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            return False
        raise  # a parent package exists, but a module that it imports does not
    except ValueError:  # the module runs as the program __main__, which has no spec
        return module in sys.modules


@lru_cache(maxsize=64)
def _installed(kind: Kind, path: Sequence[str]) -> tuple[Entry, ...]:
    """The entry points of a kind. Their metadata is read, and nothing is imported."""
    found = importlib.metadata.entry_points(group=f"tempering.{kind.name}")
    return tuple(
        Entry(each.name, each.module, each.attr or None, f"{INSTALLED}{_distribution(each)}")
        for each in found
    )


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"
