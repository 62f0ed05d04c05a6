"""Interpolations: checks how large they make a config, before they are resolved."""

import re
from collections.abc import Mapping
from typing import Any

from trainer.errors import InputError

MAX_CHARACTERS = 1 << 20
"""The maximum number of characters of a config after interpolation."""
_REFERENCE = re.compile(r"\$\{([^${}:]+)\}")
_LEAVES = re.compile(r"(^|/)\.\.(/|$)|^[a-z]+://|\\|\0", re.IGNORECASE)

Path = tuple[str, ...]


def check_expansion(tree: Any) -> None:
    """Raise InputError if a config would have more than MAX_CHARACTERS once it is resolved.

    References multiply: in a chain of ten texts that each contain the previous text ten times, the
    last text has 10**10 characters. The error names the key that exceeds the limit.
    """
    _Sizes(tree).check()


def check_defaults(values: Mapping[str, Any], file: Any) -> None:
    """Raise InputError for a YAML file whose defaults list names files outside the config folders.

    A file must not set Hydra's search path, either.
    """
    own = values.get("hydra")
    if isinstance(own, Mapping) and "searchpath" in own:
        raise InputError(f"{file}: found hydra.searchpath; accepted: --config-dir, once")
    entries = values.get("defaults")
    for entry in entries if isinstance(entries, list) else []:
        named = [*entry, *entry.values()] if isinstance(entry, Mapping) else [entry]
        for name in named:
            for each in name if isinstance(name, list) else [name]:
                if isinstance(each, str) and _LEAVES.search(each):
                    accepted = "accepted: the name of a file in a config folder"
                    raise InputError(f"{file}: defaults: found {each!r:.80}; {accepted}")


class _Sizes:
    """Computes how many characters each entry of a config would have once it is resolved."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.known: dict[Path, int] = {}

    def check(self) -> None:
        for key in self.tree if isinstance(self.tree, Mapping) else ():
            self._of((str(key),), self.tree[key])
        if sum(size for path, size in self.known.items() if len(path) == 1) > MAX_CHARACTERS:
            raise self._refused(())

    def _of(self, path: Path, value: Any) -> int:
        if path in self.known:
            return self.known[path]
        self.known[path] = 0  # ends the recursion for circular references; OmegaConf refuses them
        size = self._sum(path, value)
        if size > MAX_CHARACTERS:
            raise self._refused(path)
        self.known[path] = size
        return size

    def _sum(self, path: Path, value: Any) -> int:
        if isinstance(value, Mapping):
            return sum(len(str(k)) + self._of((*path, str(k)), v) for k, v in value.items())
        if isinstance(value, list):
            return sum(self._of((*path, str(i)), entry) for i, entry in enumerate(value))
        if not isinstance(value, str):
            return 8
        size = len(value)
        for reference in _REFERENCE.findall(value):
            size += self._referred(path, reference)
            if size > MAX_CHARACTERS:
                break
        return size

    def _referred(self, path: Path, reference: str) -> int:
        dots = len(reference) - len(reference.lstrip("."))
        parts = [part for part in re.split(r"[.\[\]]+", reference.strip()) if part]
        target = (*path[: max(len(path) - dots, 0)], *parts) if dots else tuple(parts)
        value = self.tree
        for part in target:
            if isinstance(value, Mapping):
                value = value.get(part, value.get(int(part)) if part.isdecimal() else None)
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                return 0
        return self._of(target, value)

    def _refused(self, path: Path) -> InputError:
        where = ".".join(path) or "config"
        found = f"more than {MAX_CHARACTERS:,} characters after interpolation"
        return InputError(f"{where:.100}: {found}; accepted: fewer")
