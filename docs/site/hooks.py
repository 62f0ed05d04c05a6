"""Hooks of mkdocs: generated pages, the whole navigation, and links between documents."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import inserts  # noqa: E402
import reference  # noqa: E402

REPOSITORY_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files outside of docs/ that are pages of the site -> their place in it."""
SAME_AS = {"README.md": "index.md", "SECURITY.md": "security.md"}
"""Files outside of docs/ whose links lead to another page."""
WIDE = ("from_transformers.md",)
"""Pages that need the whole width."""
NOT_SEARCHED = ("changelog.md", "decisions.md")
"""Long pages that are left out of the search, since they would hide other results."""
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
"""A link to a file. Pictures and web addresses do not match."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files in docs/, and give every page a place in the navigation."""
    for name, page in REPOSITORY_PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    for page, text in reference.pages().items():
        files.append(File.generated(config, page, content=text))
    pages = [file.src_uri for file in files.documentation_pages()]
    config.nav = with_all_pages(config.nav or [], pages)
    return files


def with_all_pages(nav: list[object], pages: list[str]) -> list[object]:
    """The navigation, with each `tasks/*` or `*` replaced by the pages that no other entry names.

    Pages stay in the order given. A page that no entry covers is left out; a strict build reports
    it.
    """
    rest = [page for page in pages if page not in set(_named(nav))]
    patterns = [entry for entry in _named(nav) if entry.endswith("*")]
    taken: dict[str, list[str]] = {pattern: [] for pattern in patterns}
    for page in rest:
        fitting = [pattern for pattern in patterns if page.startswith(pattern[:-1])]
        if fitting:
            taken[max(fitting, key=len)].append(page)
    return _expanded(nav, taken)


def _named(nav: object) -> Iterator[str]:
    """The pages and patterns that a navigation names, at any depth."""
    if isinstance(nav, str):
        yield nav
    for entry in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _named(entry)


def _expanded(nav: list[object], taken: dict[str, list[str]]) -> list[object]:
    found: list[object] = []
    for entry in nav:
        if isinstance(entry, str):
            found += taken.get(entry, [entry])
        elif isinstance(entry, dict):
            found.append(
                {k: _expanded(v, taken) if isinstance(v, list) else v for k, v in entry.items()}
            )
    return found


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page's text with its inserts, and with links that work between pages of the site."""
    if page.file.src_uri in NOT_SEARCHED:
        page.meta["search"] = {"exclude": True}
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["navigation", "toc"]
    source = page.file.abs_src_path
    folder = Path(source).parent if source else ROOT / "docs" / Path(page.file.src_uri).parent
    included = (f for f in files if f.abs_src_path and not f.inclusion.is_excluded())
    homes = {Path(str(f.abs_src_path)): f.src_uri for f in included}
    homes |= {ROOT / name: home for name, home in SAME_AS.items()}

    def resolved(link: re.Match[str]) -> str:
        words, target, anchor = link.groups()
        file = Path(os.path.normpath(folder / target))
        if file in homes:
            path = os.path.relpath(homes[file], Path(page.file.src_uri).parent)
            return f"[{words}]({path}{anchor or ''})"
        if file.exists():  # in the repository, but not on the site
            return _unlinked(words, str(file.relative_to(ROOT)))
        return link.group()  # a page that does not exist is reported by mkdocs

    return outside_of_code(LINK, resolved, inserts.filled(markdown, ROOT))


def _unlinked(words: str, path: str) -> str:
    """The text in place of a link to a file that is not on the site: its words and the path."""
    return words if path in words else f"{words} (`{path}`)"


def outside_of_code(
    pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], text: str
) -> str:
    """The text in which all matches outside of blocks of code are replaced."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.S | re.M)
    return "".join(p if p.startswith("```") else pattern.sub(replace, p) for p in parts)
