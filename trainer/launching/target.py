"""The one place where a config's `_target_` becomes an object: trusted classes, typed values."""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from trainer.callbacks.callback import Callback
from trainer.errors import InputError, nearest
from trainer.launching.typed import make, show
from trainer.recipe import Recipe

OWN_PACKAGES = ("trainer", "recipes")


@dataclass(frozen=True)
class Kind:
    """What the classes of one section have in common."""

    holds: Callable[[type[Any]], bool]
    accepted: str


RECIPE = Kind(lambda cls: issubclass(cls, Recipe), "a subclass of trainer.recipe.Recipe")
CALLBACK = Kind(lambda cls: issubclass(cls, Callback), "a subclass of Callback")
DATA_SOURCE = Kind(lambda cls: hasattr(cls, "load"), "a data source, with load()")
METRIC = Kind(lambda cls: hasattr(cls, "compute"), "a metric, with compute()")


def build(
    node: Mapping[str, Any], where: str, kind: Kind, trusted_packages: Sequence[str] = ()
) -> Any:
    """The object that `node` describes: its `_target_`, a dataclass, made of its other entries.

    Raises InputError if the target is not a class of that kind, or an entry not one of its fields.
    """
    if "_target_" not in node:
        group = where.partition(".")[0]
        accepted = f"accepted: {group}=NAME chooses one, or the dotted path of a class"
        raise InputError(f"{where}._target_: nothing given; {accepted}")
    cls = resolve(node["_target_"], f"{where}._target_", trusted_packages)
    if not kind.holds(cls):
        raise InputError(f"{where}._target_: found {cls.__name__}; accepted: {kind.accepted}")
    return make(cls, {key: value for key, value in node.items() if key != "_target_"}, where)


def resolve(target: Any, where: str, trusted_packages: Sequence[str] = ()) -> type[Any]:
    """The dataclass at the dotted path `target`, which must be defined inside a trusted package.

    Where it is defined counts, not where it was found: `trainer.x.subprocess.Popen` is refused.
    Nothing outside of the trusted packages is imported.
    """
    trusted = (*OWN_PACKAGES, *trusted_packages)
    accepted = f"accepted: a dataclass inside {', '.join(trusted)} (trusted_packages adds to these)"
    if not isinstance(target, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", target):
        raise InputError(f"{where}: found {show(target)}; {accepted}")
    module_name, _, name = target.rpartition(".")
    if not is_inside(module_name, trusted):
        raise InputError(f"{where}: '{target}' is not trusted; {accepted}")
    module = _import(module_name, where)
    found = vars(module).get(name)
    if not isinstance(found, type):
        classes = [n for n, value in vars(module).items() if is_dataclass(value)]
        raise InputError(f"{where}: no class '{target}'{nearest(name, classes)}; {accepted}")
    if not is_inside(found.__module__, trusted):
        home = f"{found.__module__}.{found.__qualname__}"
        raise InputError(f"{where}: '{target}' is {home}, which is not trusted; {accepted}")
    if not is_dataclass(found):
        raise InputError(f"{where}: '{target}' is no dataclass; {accepted}")
    return found


def is_inside(module: str, packages: Sequence[str]) -> bool:
    """Whether a module is one of these packages, or inside one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _import(name: str, where: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name != missing and not name.startswith(f"{missing}."):
            raise  # the module is there and needs one that is not
        hint = "" if missing.split(".")[0] in OWN_PACKAGES else " (is it installed, on PYTHONPATH?)"
        raise InputError(f"{where}: no module '{name}'{hint}; accepted: one that exists") from error
