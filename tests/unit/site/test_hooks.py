"""The navigation of the site takes in every page, and links between documents become its links."""

import runpy
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="module")
def hooks(repository: Path) -> dict[str, Any]:
    pytest.importorskip("mkdocs")
    return runpy.run_path(str(repository / "docs/site/hooks.py"))


def test_patterns_take_the_pages_that_are_not_named(hooks: dict[str, Any]) -> None:
    nav = ["index.md", {"Tasks": ["tasks/first.md", "tasks/*"]}, {"More": [{"Deep": ["*"]}]}]
    pages = ["index.md", "a.md", "tasks/b.md", "tasks/first.md", "tasks/a.md", "z/b.md"]
    tasks = ["tasks/first.md", "tasks/b.md", "tasks/a.md"]
    expected = ["index.md", {"Tasks": tasks}, {"More": [{"Deep": ["a.md", "z/b.md"]}]}]
    assert hooks["with_all_pages"](nav, pages) == expected


def test_every_document_has_a_place(hooks: dict[str, Any], repository: Path) -> None:
    config = yaml.safe_load((repository / "mkdocs.yml").read_text(encoding="utf-8"))
    docs = repository / "docs"
    pages = [path.relative_to(docs).as_posix() for path in sorted(docs.rglob("*.md"))]
    nav = hooks["with_all_pages"](config["nav"], [*pages, "new/page.md"])
    named = list(hooks["_named"](nav))
    assert set(pages) <= set(named) and "new/page.md" in named
    assert len(named) == len(set(named))


def test_links_to_files_outside_of_the_site_become_paths(
    hooks: dict[str, Any], repository: Path
) -> None:
    def file(uri: str, path: Path, excluded: bool = False) -> SimpleNamespace:
        inclusion = SimpleNamespace(is_excluded=lambda: excluded)
        return SimpleNamespace(src_uri=uri, abs_src_path=str(path), inclusion=inclusion)

    here = file("tasks/a.md", repository / "docs/tasks/a.md")
    script = file("list_parts.py", repository / "docs/list_parts.py", excluded=True)
    files = [here, script, file("contributing.md", repository / "CONTRIBUTING.md")]
    page = SimpleNamespace(file=here, meta={})
    text = (
        "[how](../../CONTRIBUTING.md#house-rules) [it](../../README.md) [code](../../launch.py)\n"
        "[list](../list_parts.py) [none](missing.md) [far](https://example.org/a.md)\n```text\n[how](../../README.md)\n```\n"
    )
    found = hooks["on_page_markdown"](text, page, None, files)
    assert found == (
        "[how](../contributing.md#house-rules) [it](../index.md) code (`launch.py`)\n"
        "list (`docs/list_parts.py`) [none](missing.md) [far](https://example.org/a.md)\n```text\n[how](../../README.md)\n```\n"
    )


def test_unknown_inserts_are_refused(hooks: dict[str, Any], repository: Path) -> None:
    filled = hooks["inserts"].filled
    with pytest.raises(KeyError, match="no section 'Nothing'"):
        filled("<!-- README.md: Nothing -->", repository)
    with pytest.raises(FileNotFoundError):
        filled("<!-- file: nothing.py -->", repository)
    shown = filled("<!-- file: examples/extending/configs/metrics/within_one.yaml -->", repository)
    assert shown.startswith('```yaml title="examples/') and "_target_: within_one" in shown
    extras = filled("<!-- extras of pyproject.toml -->", repository).splitlines()[2:]
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    named = [line.split("`")[1] for line in extras]
    assert named == list(project["optional-dependencies"])
    assert "| `serve` | `job=serve` | `fastapi`, `prometheus_client`, `uvicorn` |" in extras
    guarantees = filled("<!-- README.md: What it guarantees -->", repository)
    assert guarantees.startswith("| problem in other tools") and "](docs/" not in guarantees


def test_every_recipe_has_a_task(repository: Path) -> None:
    text = (repository / "docs/tasks/index.md").read_text(encoding="utf-8")
    recipes = [path.stem for path in (repository / "configs/recipe").glob("*.yaml")]
    assert [name for name in recipes if f"[`{name}`](" not in text] == []
