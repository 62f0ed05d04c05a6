"""What interpolations would make of a config: how long it gets, told before it gets so long."""

import re
from collections.abc import Mapping
from typing import Any

from trainer.errors import InputError

MAX_CHARACTERS = 1 << 20
"""Of all texts of a config together, after interpolation."""
_REFERENCE = re.compile(r"\$\{([^${}:]+)\}")
_LEAVES = re.compile(r"(^|/)\.\.(/|$)|^[a-z]+://|\\|\0", re.IGNORECASE)

Path = tuple[str, ...]


def check_expansion(tree: Any) -> None:
    """Refuse a config, not yet resolved, that would have more than MAX_CHARACTERS.

    Texts that stand for each other multiply: ten that hold the one before ten times are 10**10.
    Raises InputError naming the key that goes beyond.
    """
    _Sizes(tree).check()


def check_defaults(values: Mapping[str, Any], file: Any) -> None:
    """Refuse a YAML's defaults list, or a search path, that leaves the config folders."""
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
    """How many characters each entry of a tree has once all is resolved."""

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
        self.known[path] = 0  # where it stands for itself, which is refused later
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
