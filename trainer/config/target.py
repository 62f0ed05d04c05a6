"""Target: makes the object that a `_target_` names, from a trusted class and typed values."""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from trainer import registry
from trainer.callbacks.callback import Callback
from trainer.config.typed import make, show
from trainer.errors import InputError, nearest
from trainer.registry import CALLBACKS, METRICS, OWN_PACKAGES, RECIPES
from trainer.tasks.recipe import Recipe


@dataclass(frozen=True)
class Kind:
    """The kind of class that a config section accepts."""

    accepts: Callable[[type[Any]], bool]
    """A function that returns whether a class is of this kind."""
    accepted: str
    """A description of the accepted classes, for error messages."""
    parts: registry.Kind | None = None
    """The registry's kind, to find a class by its short name; None allows only dotted paths."""


RECIPE = Kind(
    lambda cls: issubclass(cls, Recipe), "a subclass of trainer.tasks.recipe.Recipe", RECIPES
)
CALLBACK = Kind(lambda cls: issubclass(cls, Callback), "a subclass of Callback", CALLBACKS)
DATA_SOURCE = Kind(lambda cls: hasattr(cls, "load"), "a data source, with load()")
METRIC = Kind(lambda cls: hasattr(cls, "compute"), "a metric, with compute()", METRICS)


def build(
    node: Mapping[str, Any], where: str, kind: Kind, trusted_packages: Sequence[str] = ()
) -> Any:
    """The object that `node` describes: an instance of `_target_` with the other entries as fields.

    Raises InputError if the target is not a class of this kind, or if an entry is not a field of
    the class.
    """
    if "_target_" not in node:
        group = where.partition(".")[0]
        accepted = f"accepted: {group}=NAME chooses one, or the dotted path of a class"
        raise InputError(f"{where}._target_: nothing given; {accepted}")
    cls = resolve(node["_target_"], f"{where}._target_", trusted_packages, kind.parts)
    if not kind.accepts(cls):
        raise InputError(f"{where}._target_: found {cls.__name__}; accepted: {kind.accepted}")
    values = {key: value for key, value in node.items() if key != "_target_"}
    for name in getattr(cls, "holds_recipes", ()):
        if isinstance(values.get(name), Mapping):
            values[name] = _recipes(values[name], f"{where}.{name}", trusted_packages)
    sources = getattr(cls, "holds_sources", None)
    if sources and isinstance(values.get(sources), Mapping):
        values[sources] = _sources(values[sources], f"{where}.{sources}", trusted_packages)
    return make(cls, values, where)


def _sources(nodes: Mapping[str, Any], where: str, trusted: Sequence[str]) -> dict[str, Any]:
    """The entries of a mixture, with objects in place of the nodes of data sets and recipes."""
    found = {}
    for name, node in nodes.items():
        if not isinstance(node, Mapping) or "dataset" not in node:
            accepted = "accepted: {dataset: a path or an option of dataset, weight: 1, ...}"
            raise InputError(f"{where}.{name}: found {show(node)}; {accepted}")
        if not isinstance(node["dataset"], Mapping):
            accepted = "accepted: a path or an option of dataset"
            raise InputError(f"{where}.{name}.dataset: found {show(node['dataset'])}; {accepted}")
        entry = {**node, "dataset": _built(node["dataset"], f"{where}.{name}.dataset", trusted)}
        recipe = node.get("recipe")
        if isinstance(recipe, Mapping) and "_target_" in recipe:
            entry["recipe"] = build(recipe, f"{where}.{name}.recipe", RECIPE, trusted)
        found[str(name)] = entry
    return found


def _built(node: Mapping[str, Any], where: str, trusted: Sequence[str]) -> object:
    """A data set of a mixture; error messages start with its own key instead of `dataset`."""
    try:
        return build(node, where, DATA_SOURCE, trusted)
    except InputError as error:
        text = str(error)
        if not text.startswith("dataset.") or text.startswith(where):
            raise
        raise InputError(f"{where}.{text.removeprefix('dataset.')}") from error


def _recipes(nodes: Mapping[str, Any], where: str, trusted: Sequence[str]) -> dict[str, Any]:
    """Build the recipe of each node; the node's key `recipe` names the recipe's class."""
    found = {}
    for name, node in nodes.items():
        if not isinstance(node, Mapping) or not isinstance(node.get("recipe"), str):
            accepted = "accepted: {recipe: sequence_classification, ...}"
            raise InputError(f"{where}.{name}: found {show(node)}; {accepted}")
        own = {key: value for key, value in node.items() if key != "recipe"}
        target = {**own, "_target_": node["recipe"]}
        found[str(name)] = build(target, f"{where}.{name}", RECIPE, trusted)
    return found


def resolve(
    target: object,
    where: str,
    trusted_packages: Sequence[str] = (),
    parts: registry.Kind | None = None,
) -> type[Any]:
    """The dataclass that `target` names, by a dotted path or by its name in the registry.

    The class must be defined in a trusted package, or an installed entry point must name it. A
    class that a trusted module only imports is refused (`trainer.x.subprocess.Popen`), and modules
    that are not trusted are not imported. Raises InputError.
    """
    if parts is not None and isinstance(target, str) and re.fullmatch(r"[a-z]\w*", target):
        return _dataclass(registry.find(parts, target, where), target, where)
    trusted = (*OWN_PACKAGES, *registry.trusted(), *trusted_packages)
    if parts is not None and isinstance(target, str) and registry.is_installed(parts, target):
        trusted = (*trusted, target.rpartition(".")[0])
    accepted = f"accepted: a dataclass inside {', '.join(dict.fromkeys(trusted))} "
    accepted += "(trusted_packages adds to these)"
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
    return _dataclass(found, target, where)


def _dataclass(found: object, target: str, where: str) -> type[Any]:
    if not (isinstance(found, type) and is_dataclass(found)):
        raise InputError(f"{where}: '{target}' is not a dataclass; accepted: a dataclass")
    return found


def is_inside(module: str, packages: Sequence[str]) -> bool:
    """Whether a module is one of these packages, or is inside one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _import(name: str, where: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name != missing and not name.startswith(f"{missing}."):
            raise  # the module exists, but one that it imports does not
        hint = "" if missing.split(".")[0] in OWN_PACKAGES else " (is it installed, on PYTHONPATH?)"
        raise InputError(f"{where}: no module '{name}'{hint}; accepted: one that exists") from error
