"""The house rules: imports run one way, every file says what it is, nothing unsafe is called."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([ROOT / "launch.py", *ROOT.glob("recipes/*.py"), *ROOT.glob("trainer/**/*.py")])
LONGEST_FUNCTION = 60
USUAL_FUNCTION = 40


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether at its top level."""
    module = tree(path)
    for node in ast.walk(module):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
        yield from ((name, node in module.body) for name in names)


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_imports_run_one_way(path: Path) -> None:
    found = {name.split(".")[0] for name, _ in imports(path)}
    if path.name != "launch.py":
        assert not found & {"hydra", "omegaconf"}
    if place(path).startswith("trainer/"):
        assert not found & {"recipes", "launch", "configs", "transformers"}
    if place(path) != "trainer/placement.py":
        assert "accelerate" not in found
    for folder in ("recipes", "trainer/callbacks", "trainer/jobs"):
        shared = {"callback", "parts"}
        if place(path).startswith(folder) and path.stem != "__init__":
            own = folder.replace("/", ".")
            others = {
                n.split(".")[own.count(".") + 1]
                for n, _ in imports(path)
                if n.startswith(f"{own}.")
            }
            assert others <= shared


LIGHT = ("trainer/settings.py", "trainer/run.py", "trainer/recipe.py", "trainer/data/rows.py")
HEAVY = {"torch", "datasets", "evaluate", "sklearn", "accelerate", "transformers", "pandas"}


def test_what_a_config_needs_imports_nothing_heavy() -> None:
    modules = [name.removesuffix(".py").replace("/", ".") for name in LIGHT]
    modules += [f"recipes.{path.stem}" for path in ROOT.glob("recipes/*.py")]
    modules += ["trainer", "trainer.callbacks.progress", "trainer.metrics.classification"]
    code = f"import sys, {', '.join(modules)}; print(*sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "", done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_functions_are_short(path: Path) -> None:
    lengths = {
        f"{node.name}:{node.lineno}": (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert not {name: n for name, n in lengths.items() if n > LONGEST_FUNCTION}


def test_few_functions_are_long() -> None:
    lengths = [
        (node.end_lineno or 0) - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef)
    ]
    assert sorted(lengths)[int(0.95 * len(lengths))] <= USUAL_FUNCTION


UNSAFE = re.compile(
    r"\bpickle\.|import pickle|torch\.load\(|weights_only=False|yaml\.load\(|(?<![\w.])eval\("
    r"|(?<![\w.])exec\(|trust_remote_code=True|allow_pickle=True"
)


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_nothing_unsafe_is_called(path: Path) -> None:
    assert not UNSAFE.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_every_file_opens_with_one_sentence(path: Path) -> None:
    sentence = (ast.get_docstring(tree(path)) or "").split("\n")[0]
    assert sentence.endswith((".", "?"))


def test_the_architecture_page_lists_every_folder() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for file in ROOT.glob("trainer/*/__init__.py"):
        sentence = (ast.get_docstring(tree(file)) or "").split("\n")[0]
        assert f"| `{place(file.parent)}/` | {sentence} |" in page


def test_no_drawers() -> None:
    names = {path.stem for path in SOURCES}
    assert not names & {"utils", "helpers", "common", "misc", "manager", "base"}
