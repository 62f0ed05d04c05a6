"""Name patterns: select parameters for settings such as model.freeze."""

import re
from collections.abc import Iterable

from torch import nn

from trainer.errors import InputError, nearest


def name_pattern(pattern: str, where: str = "model.freeze") -> re.Pattern[str]:
    """Compile a pattern: * matches any text, ? a character, [2-11] and [0,3] whole numbers.

    `where` names the setting in errors. Raises InputError for other brackets, which are ambiguous:
    shells read them as single characters, so [01] could mean 0 and 1 or just 1.
    """
    pieces = []
    for part in re.split(r"(\*|\?|\[[^\]]*\]?)", pattern):
        if part in ("*", "?"):
            pieces.append({"*": ".*", "?": "."}[part])
        elif part.startswith("["):
            pieces.append(f"(?:{'|'.join(map(str, _numbers(part, pattern, where)))})")
        else:
            pieces.append(re.escape(part))
    return re.compile("".join(pieces))


def matching_names(
    pattern: str, names: Iterable[str], model: nn.Module | None, where: str
) -> set[str]:
    """The parameters whose name in the model, or in files on the hub, matches the pattern.

    Raises InputError, which names the setting `where`, if the pattern matches none.
    """
    regex = name_pattern(pattern, where)
    hub_name = getattr(model, "hub_name", lambda name: name)
    spellings = {name: (name, hub_name(name)) for name in names}
    matched = {name for name, forms in spellings.items() if any(map(regex.fullmatch, forms))}
    if not matched:
        hub_names = [hub for _, hub in spellings.values()]
        example = f" such as {hub_names[0]}" if hub_names else ""
        raise InputError(
            f"{where}: '{pattern}' matches no parameter; accepted: patterns of names"
            f"{example}{nearest(pattern, hub_names)}"
        )
    return matched


def _numbers(brackets: str, pattern: str, where: str) -> list[int]:
    found: list[int] = []
    several_digits = re.fullmatch(r"\[\d{2,}\]", brackets)
    for item in brackets.removeprefix("[").removesuffix("]").split(","):
        ends = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", item)
        wrong = ends is None or not brackets.endswith("]") or several_digits
        if ends is None or wrong or int(ends[2] or ends[1]) < int(ends[1]):
            accepted = "whole numbers in brackets, such as [0-11] or [0,1]"
            raise InputError(f"{where}: '{pattern}': found {brackets}; accepted: {accepted}")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return found
