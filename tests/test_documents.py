"""The documents are true: their Python blocks run, in order, and other blocks can be read.

Commands are composed in tests/distributed/test_commands.py and run in tests/jobs/test_pages.py.
"""

import json
import re
import runpy
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
RUN_ELSEWHERE = {
    "docs/export.md": "tests/jobs/test_export_graphs.py",
    "docs/serving.md": "tests/jobs/test_pages.py",
    "docs/start.md": "tests/jobs/test_pages.py",
}
"""Documents whose Python blocks need a run or a server -> the test that runs them."""
LANGUAGES = {"bash", "python", "python tensorflow", "yaml", "json", "csv", "text"}
"""What a block may be; text is not code."""


@lru_cache(maxsize=1)
def all_blocks() -> list[tuple[str, str, str]]:
    """The document, the language and the text of each block of code."""
    documents = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
    return [block for document in documents for block in blocks_of(document)]


def blocks_of(document: Path) -> Iterator[tuple[str, str, str]]:
    name = document.relative_to(ROOT).as_posix()
    text = document.read_text(encoding="utf-8")
    for kind, body in re.findall(r"^ *```(.*?)\n(.*?)^ *```$", text, flags=re.S | re.M):
        kind = kind.replace('title="TensorFlow"', "tensorflow")
        yield name, re.sub(r" title=.*", "", kind), body


def documents_with_python() -> list[str]:
    """Those whose Python blocks run here."""
    found = dict.fromkeys(name for name, kind, _ in all_blocks() if kind == "python")
    return [name for name in found if name not in RUN_ELSEWHERE]


def test_every_block_is_of_a_language_that_a_test_reads() -> None:
    assert {(name, kind) for name, kind, _ in all_blocks() if kind not in LANGUAGES} == set()
    for name, test in RUN_ELSEWHERE.items():
        assert name in (ROOT / test).read_text(encoding="utf-8")


def test_every_json_block_holds_objects() -> None:
    for name, kind, text in all_blocks():
        objects = text.replace(",\n", ",").splitlines()  # one for each line, or over several
        for line in objects if kind == "json" else ():
            assert isinstance(json.loads(line), dict), name


def test_every_yaml_block_has_keys_that_exist() -> None:
    """A block is a part of a config, which may choose options, or the file of a recipe."""
    from trainer.config.groups import CONFIGS, options
    from trainer.config.known_keys import OPEN_KINDS, fixed_keys, open_keys
    from trainer.config.option_files import set_keys

    keys = [key.name for key in fixed_keys()]
    keys += [key.name for group in OPEN_KINDS for key in open_keys(group, [CONFIGS])]
    for name, kind, text in all_blocks():
        found = yaml.safe_load(text) if kind == "yaml" else {}
        if "_target_" in found:
            found = {"recipe": {k: v for k, v in found.items() if k != "_target_"}}
        for typed, value in set_keys(found):
            known = any(typed == key or typed.startswith(f"{key}.") for key in keys)
            known |= str(value) in options(typed, [CONFIGS]) or typed.startswith("hydra/")
            assert known, (name, typed)


@pytest.mark.parametrize("name", documents_with_python())
def test_every_python_block_runs(
    name: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [text for _, kind, text in blocks_of(repository / name) if kind == "python"]
    assert blocks
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "document"}
    for number, block in enumerate(blocks):
        code = compile(block, f"{name}, block {number + 1}", "exec")
        exec(code, namespace)


def test_the_readme_lists_the_families_and_recipes(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    lists = runpy.run_path(str(repository / "docs" / "list_parts.py"))
    assert text == lists["with_parts"](text), "run: python docs/list_parts.py"
    assert "`bert`" in text and "`causal_lm`" in text


def test_no_document_has_the_markers_of_a_merge_conflict(repository: Path) -> None:
    marker = re.compile(r"^(<<<<<<< |=======$|>>>>>>> )", flags=re.M)
    documents = [*repository.glob("*.md"), *repository.glob("docs/**/*.md")]
    assert [each for each in documents if marker.search(each.read_text(encoding="utf-8"))] == []


def test_the_readme_fits_on_150_lines(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150


PATH = re.compile(
    r"(?<![\w./-])((?:trainer|recipes|tempering|configs|tests|docs|benchmarks|examples|\.ci)"
    r"(?:/[\w.-]+)+/?)(?![\w/*<{])"
)
"""A path below one of the repository's folders, without placeholders such as <name>."""


def test_every_path_that_a_document_names_exists(repository: Path) -> None:
    documents = [*repository.glob("*.md"), *repository.glob("docs/**/*.md")]
    missing = []
    for document in documents:
        if document.name == "CHANGELOG.md":
            continue  # describes earlier layouts too
        for path in PATH.findall(document.read_text(encoding="utf-8")):
            if not (repository / path.rstrip("./")).exists():
                missing.append(f"{document.name}: {path}")
    assert not missing


def test_every_link_of_a_document_leads_to_a_file(repository: Path) -> None:
    documents = [*repository.glob("*.md"), *repository.glob("docs/**/*.md")]
    missing = []
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
            target = (document.parent / link).resolve()
            if target.parent == repository / "docs" / "reference":
                continue  # written when the site is built, which checks these links
            if not target.exists():
                missing.append(f"{document.name}: {link}")
    assert not missing
