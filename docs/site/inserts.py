"""Parts of pages that are written at build time: sections of the README, files and tables of keys.

A page marks the place with a comment on a line of its own: `<!-- README.md: What it guarantees -->`
is that section of the README, `<!-- file: launch.py -->` a file of the repository, `<!-- keys of
trl -->` the table of another program's keys, and `<!-- extras of pyproject.toml -->` that of the
extras.
"""

import re
import tomllib
from pathlib import Path

from peers import peer_table

SECTION = re.compile(r"^<!-- README\.md: (.+) -->$", flags=re.M)
FILE = re.compile(r"^<!-- file: (.+) -->$", flags=re.M)
EXTRAS = re.compile(r"^<!-- extras of pyproject\.toml -->$", flags=re.M)
EXTRA = re.compile(r"^([a-z]+) = \[(?:.*\])?  # (.+)$", flags=re.M)
"""An extra in pyproject.toml, with a comment that says what it is for."""
FEW = 5
"""The largest number of packages of an extra to list."""
KEYS = re.compile(r"^<!-- keys of ([\w-]+) -->$", flags=re.M)


def filled(markdown: str, root: Path) -> str:
    """The page with its marks replaced. Raises KeyError for an unknown section or program."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    markdown = SECTION.sub(lambda mark: _section(readme, mark.group(1)), markdown)
    markdown = FILE.sub(lambda mark: _file(root, mark.group(1)), markdown)
    markdown = EXTRAS.sub(lambda mark: extras_table(root), markdown)
    return KEYS.sub(lambda mark: peer_table(mark.group(1)), markdown)


def extras_table(root: Path) -> str:
    """A table of the extras, with the packages that each installs and what it is for.

    Raises KeyError for an extra without a comment.
    """
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    uses = dict(EXTRA.findall(text))
    lines = ["| extra | what it is for | packages |", "|---|---|---|"]
    for extra, packages in tomllib.loads(text)["project"]["optional-dependencies"].items():
        names = [re.split(r"[<>=\[ ]", package)[0] for package in packages]
        shown = ", ".join(f"`{name}`" for name in names) if len(names) <= FEW else "many"
        lines.append(f"| `{extra}` | {uses[extra]} | {shown} |")
    return "\n".join(lines)


def _section(readme: str, heading: str) -> str:
    """The text below a heading of the README, with links as from a page in docs/."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", readme, flags=re.S | re.M)
    if found is None:
        raise KeyError(f"README.md has no section '{heading}'")
    return re.sub(r"\]\((?![a-z]+:)(docs/)?", lambda m: "](" if m[1] else "](../", found[1]).strip()


def _file(root: Path, name: str) -> str:
    """A block of code with the contents of a file, and its path as the title."""
    text = (root / name).read_text(encoding="utf-8").rstrip()
    language = {"py": "python", "sh": "bash"}.get(ending := name.rpartition(".")[2], ending)
    return f'```{language} title="{name}"\n{text}\n```'
