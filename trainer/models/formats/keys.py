"""Tensor names: converts parameter names of this package to names in files on the hub and back."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from trainer.errors import InputError
from trainer.models.family import Family

BODY, HEAD = "body.", "head."
HEAD_OF_TASK = "of_"
"""The prefix of a task's name in the module names of its head: `head.<kind of head>.of_<task>`."""


def hub_name(name: str, family: Family, task: str) -> str:
    """A parameter's name in files on the hub, with the family's prefix in a model with a head."""
    short = short_hub_name(name, family, task)
    prefixed = name.startswith(BODY) and not family.heads[task].bare
    return f"{family.prefix}.{short}" if prefixed and family.prefix else short


def short_hub_name(name: str, family: Family, task: str) -> str:
    """A parameter's name in files on the hub, without the family's prefix."""
    name = name.replace("_orig_mod.", "")  # the prefix that torch.compile adds
    if f".{HEAD_OF_TASK}" in name and name.startswith(HEAD):
        _, kind, own, rest = name.split(".", 3)
        own = own.removeprefix(HEAD_OF_TASK)
        return f"task_heads.{own}.{short_hub_name(HEAD + rest, family, kind)}"
    table = family.keys if name.startswith(BODY) else family.heads[task].keys
    short = name.removeprefix(BODY).removeprefix(HEAD)
    module, _, leaf = short.rpartition(".")
    numbers = re.findall(r"\.(\d+)(?=\.)", module)
    pattern = re.sub(r"\.\d+(?=\.)", ".*", module)
    # Some parameters have a hub name that is not a module's name followed by "weight" or "bias".
    if (whole := re.sub(r"\.\d+(?=\.)", ".*", short)) in table:
        return _numbered(table[whole], numbers)
    if pattern not in table:
        where = "the family's keys" if table is family.keys else f"the keys of the head {task}"
        accepted = f"the name in files of each module with parameters; known: {', '.join(table)}"
        raise InputError(f"model: {where}: no entry '{pattern}'; accepted: {accepted}")
    return f"{_numbered(table[pattern], numbers)}.{leaf}"


def short_names(names_in_file: Iterable[str], family: Family) -> dict[str, str]:
    """Short hub name -> name in the file, which may have the prefix or end in gamma or beta."""
    found: dict[str, str] = {}
    for name in names_in_file:
        prefix = f"{family.prefix}." if family.prefix else ""
        short = _current_name(name.removeprefix(prefix))
        if short in found:
            raise InputError(f"model: tensor {short} is stored twice: {found[short]}, {name}")
        found[short] = name
    return found


def is_known_extra(short_name: str, family: Family) -> bool:
    """Whether an unused tensor belongs to another head or is a buffer."""
    heads = (f"{module}.*" for head in family.heads.values() for module in head.keys.values())
    return any(fnmatchcase(short_name, pattern) for pattern in (*family.known_extras, *heads))


def _numbered(name: str, numbers: list[str]) -> str:
    """Replace each * in a name of the table by a number."""
    for number in numbers:
        name = name.replace("*", number, 1)
    return name


def _current_name(name: str) -> str:
    """Convert a layer norm's names gamma and beta, which old files have, to weight and bias."""
    if name.endswith("LayerNorm.gamma"):
        return name.removesuffix("gamma") + "weight"
    return name.removesuffix("beta") + "bias" if name.endswith("LayerNorm.beta") else name
