"""Interpolations: checks how large they make a config, before they are resolved."""

import re
from collections.abc import Mapping
from typing import Any

from trainer.errors import InputError
from trainer.foreign.numbers import decimal

MAX_CHARACTERS = 1 << 20
"""The maximum number of characters of a config after interpolation."""
UNKNOWN = MAX_CHARACTERS // 16
"""The size that is assumed for a reference if even the beginning of its key is not known yet."""
MAX_NESTED = 20
"""The maximum depth of references inside of references."""
UNNAMED = "?"
"""Stands for a part of a key that is not known; no key contains it."""
_INNERMOST = re.compile(r"\$\{([^${}]*)\}")
_BY_NAME = re.compile(
    r"\s*oc\.(?:select|deprecated|dict\.keys|dict\.values)\s*:\s*['\"]?([^,'\"]*)"
)
"""Matches the resolvers of OmegaConf whose first argument is a key."""
_UNCHECKED = re.compile(r"(^|/)\.[^/]|^[a-z]+://|\\|\0", re.IGNORECASE)
"""Matches names of files outside the config folders, and of hidden files, which are not checked."""

Path = tuple[str, ...]


def check_expansion(tree: Any) -> None:
    """Raise InputError if a config would have more than MAX_CHARACTERS once it is resolved.

    References multiply: in a chain of ten texts that each contain the previous text ten times, the
    last text has 10**10 characters. The error names the key that exceeds the limit.
    """
    _Sizes(tree).check()


def check_defaults(values: Mapping[str, Any], file: Any) -> None:
    """Raise InputError for a YAML file whose defaults list names files that are not checked.

    These are hidden files, and files outside the config folders. A file must not set Hydra's search
    path, either.
    """
    own = values.get("hydra")
    if isinstance(own, Mapping) and "searchpath" in own:
        raise InputError(f"{file}: found hydra.searchpath; accepted: --config-dir, once")
    entries = values.get("defaults")
    for entry in entries if isinstance(entries, list) else []:
        named = [*entry, *entry.values()] if isinstance(entry, Mapping) else [entry]
        for name in named:
            for each in name if isinstance(name, list) else [name]:
                if isinstance(each, str) and _UNCHECKED.search(each):
                    accepted = "accepted: the name of a file in a config folder, not a hidden one"
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
        self.known[path] = UNKNOWN  # ends the recursion for references that may be circular
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
        return len(value) + self._sum_of_references(path, value)

    def _sum_of_references(self, path: Path, text: str) -> int:
        size = 0

        def name_of(found: re.Match[str]) -> str:
            nonlocal size
            key = _key(found[1])
            if key is None or size > MAX_CHARACTERS:
                return UNNAMED
            size += self._referred(path, key)
            return self._name(path, key)

        for _ in range(MAX_NESTED):
            text, number = _INNERMOST.subn(name_of, text)
            if not number:
                return size
        return MAX_CHARACTERS + 1

    def _name(self, path: Path, key: str) -> str:
        """The text of an entry, if it can be a part of a key; UNNAMED if it is not known yet."""
        value = self._entry(self._target(path, key))
        text = str(value) if isinstance(value, (str, int)) else ""
        return text if re.fullmatch(r"[\w./-]{1,200}", text) else UNNAMED

    def _referred(self, path: Path, key: str) -> int:
        """The size of an entry; if only the beginning of its key is known, of all with it."""
        if UNNAMED in key:
            key = key.partition(UNNAMED)[0].rpartition(".")[0]
            if not key.strip("."):
                return UNKNOWN
        target = self._target(path, key)
        return self._of(target, self._entry(target))

    def _target(self, path: Path, key: str) -> Path:
        """The path of the entry that a reference in the entry `path` names."""
        dots = len(key) - len(key.lstrip("."))
        parts = [part for part in re.split(r"[.\[\]]+", key.strip()) if part]
        return (*path[: max(len(path) - dots, 0)], *parts) if dots else tuple(parts)

    def _entry(self, target: Path) -> object:
        """The entry at a path; an empty text if there is none."""
        value = self.tree
        for part in target:
            if isinstance(value, Mapping):
                value = value.get(part, value.get(decimal(part)))
            elif isinstance(value, list) and (index := decimal(part)) is not None:
                value = value[index] if index < len(value) else ""
            else:
                return ""
        return value

    def _refused(self, path: Path) -> InputError:
        where = ".".join(path) or "config"
        found = f"more than {MAX_CHARACTERS:,} characters after interpolation"
        return InputError(f"{where:.100}: {found}; accepted: fewer")


def _key(inside: str) -> str | None:
    """The key that the text inside of `${}` refers to; None for a resolver such as oc.env."""
    if found := _BY_NAME.match(inside):
        return found[1].strip()
    return None if ":" in inside else inside.strip()
