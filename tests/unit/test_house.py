"""The house rules: one-way imports, a docstring in every file, no unsafe calls."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from unittest import mock

import pytest

from trainer.local_copies import LOGGERS

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    [
        ROOT / "launch.py",
        *ROOT.glob("recipes/*.py"),
        *ROOT.glob("tempering/**/*.py"),
        *ROOT.glob("trainer/**/*.py"),
    ]
)
LONGEST_FUNCTION = 60
USUAL_FUNCTION = 40

LAYERS = (
    ("trainer.local_copies", "trainer.plurals"),
    ("trainer.errors",),
    ("trainer.choices", "trainer.foreign", "trainer.option_types", "trainer.redaction")
    + ("trainer.settings",)
    + ("trainer.peer_names", "trainer.peer_reasons", "trainer.registry"),
    ("trainer.terminal",),
    ("trainer.checkpoint", "trainer.devices", "trainer.foreign.downloads"),
    ("trainer.stores",),
    ("trainer.hub", "trainer.pushing"),
    # models read and write foreign formats, and causal models generate
    ("trainer.models", "trainer.tokenizer", "trainer.interop", "trainer.generation")
    # wrapping and sharding a model for training
    + ("trainer.devices.placement", "trainer.devices.sharding", "trainer.devices.context")
    + ("trainer.devices.tensor_parallel",)
    # functions of tensors that heads call
    + ("trainer.tasks.crf", "trainer.tasks.losses", "trainer.tasks.log_probs")
    + ("trainer.tasks.loss_on_gpu",),
    ("trainer.data", "trainer.tasks", "trainer.metrics"),
    ("recipes",),
    ("trainer.callbacks", "trainer.rendering", "trainer.reports", "trainer.runs")
    + ("trainer.training",),
    ("trainer.trainer", "trainer.export"),
    ("trainer.launching",),
    ("trainer.config",),
    ("trainer.pipelines",),
    ("trainer.serving",),
    ("trainer.jobs",),
    ("trainer", "launch", "tempering"),
)
"""From the bottom to the top: a module imports from its own layer and from those below it.

A module's layer is that of its longest prefix. `trainer` itself is the package's public names.
"""

OTHER_LOGGERS = (
    *("trainer.export.onnx_graph", "trainer.jobs.parts.data", "trainer.launching.launcher"),
    *("trainer.models.quantization.quantize", "trainer.local_copies"),
)
"""Modules that look up loggers by name: of other packages, to change their level, and of ours."""


@lru_cache(maxsize=1)
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every source file, by the module's name."""
    return {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def name_of(path: Path) -> str:
    """The dotted name of a module; a package has the name of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(module: str) -> Iterator[str]:
    """All imports of a module: at the top, inside functions and for type checking."""
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{module}: a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in trees() else node.module


def own_imports(module: str) -> set[str]:
    """The imported modules that belong to this project."""
    return {name for name in imports(module) if name in trees()} - {module}


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer_of(module: str) -> int:
    prefixes = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    found = [name for name in prefixes if is_inside(module, name)]
    longest = max(found, key=len)
    assert longest != "trainer" or module == "trainer", f"{module}: has no layer"
    return prefixes[longest]


def report(offenders: list[str]) -> None:
    """Fail with a list of all faults."""
    assert not offenders, "\n" + "\n".join(offenders)


def test_imports_go_to_lower_layers() -> None:
    upward = [
        f"{module} imports {name}, which is in a higher layer"
        for module in trees()
        for name in sorted(own_imports(module))
        if layer_of(name) > layer_of(module)
    ]
    report(upward)


def test_logs_of_every_module_name_urls() -> None:
    """A logger with another name would show the paths of local copies."""
    report(
        [
            f"{module}: getLogger({ast.unparse(node.args[0])})"
            for module in trees()
            if not is_inside(module, "trainer.config") and module not in OTHER_LOGGERS
            for node in ast.walk(trees()[module])
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger"
            if node.args and getattr(node.args[0], "value", None) not in LOGGERS
        ]
    )


def test_no_modules_import_each_other() -> None:
    """At any depth, including imports inside functions and for type checking.

    `from package import Class` counts as an import of the package's `__init__.py` alone.
    """
    report([f"a cycle: {', '.join(sorted(cycle))}" for cycle in cycles()])


def cycles() -> list[set[str]]:
    """The strongly connected components of more than one module (Tarjan, 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for name in own_imports(module):
            if name not in number:
                visit(name)
                lowest[module] = min(lowest[module], lowest[name])
            elif name in stack:
                lowest[module] = min(lowest[module], number[name])
        if lowest[module] == number[module]:
            start = stack.index(module)
            component, stack[start:] = set(stack[start:]), []
            if len(component) > 1:
                found.append(component)

    for module in trees():
        if module not in number:
            visit(module)
    return found


def test_packages_are_imported_where_they_belong() -> None:
    offenders = []
    for module in trees():
        found = {name.split(".")[0] for name in imports(module)}
        refused = set()
        if not is_inside(module, "trainer.config"):
            refused |= {"hydra", "omegaconf"}
        if is_inside(module, "trainer"):
            refused |= {"recipes", "launch", "configs", "tempering"}
        if is_inside(module, "trainer") and not is_inside(module, "trainer.interop"):
            refused |= {"transformers"}  # only the backend of this name runs models of transformers
        if module != "trainer.devices.placement":
            refused |= {"accelerate"}
        offenders += [f"{module} imports {name}" for name in sorted(found & refused)]
    report(offenders)


def test_parts_do_not_import_each_other() -> None:
    """Applies to recipes, callbacks and jobs; only the file of their package imports them."""
    shared = {"callback", "parts", "trackers"}
    offenders = []
    packages = {name.rpartition(".")[0] for name in trees()}
    for package in ("recipes", "trainer.callbacks", "trainer.jobs"):
        parts = [n for n in trees() if n.startswith(f"{package}.") and n not in packages]
        for module in parts:
            for name in sorted(own_imports(module)):
                part = name.removeprefix(f"{package}.").split(".")[0]
                if name.startswith(f"{package}.") and part not in shared:
                    offenders.append(f"{module} imports {name}")
    report(offenders)


LIGHT = ("trainer.settings", "trainer.runs.run", "trainer.tasks.recipe", "trainer.data.rows")
HEAVY = {"torch", "datasets", "evaluate", "sklearn", "accelerate", "transformers", "pandas"}


def test_what_a_config_needs_imports_nothing_heavy() -> None:
    modules = [*LIGHT, *(name for name in trees() if name.startswith("recipes."))]
    modules += ["tempering", "trainer"]
    modules += ["trainer.callbacks.progress", "trainer.metrics.classification"]
    code = f"import sys, {', '.join(modules)}; print(*sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "", done.stdout + done.stderr


def functions() -> Iterator[tuple[str, int]]:
    """Every function and its number of lines."""
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                yield f"{module}:{node.lineno} {node.name}", lines


def test_functions_are_short() -> None:
    report([f"{name}: {lines} lines" for name, lines in functions() if lines > LONGEST_FUNCTION])


def test_few_functions_are_long() -> None:
    lengths = sorted(lines for _, lines in functions())
    assert lengths[int(0.95 * len(lengths))] <= USUAL_FUNCTION


BARE_ANY = 326
"""The maximum number of bare `Any` annotations; lower it when replacing some, never raise it.

`object` is the type of a value that is only passed on. For a library without types, use an alias of
`Any` whose name and docstring describe the value (`TfTensor`).
"""


def bare_any(tree: ast.Module) -> Iterator[int]:
    """The lines of parameters, results and variables whose type is a bare `Any`."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            annotation = node.annotation
        else:
            annotation = getattr(node, "returns", None)
        if isinstance(annotation, ast.Name) and annotation.id == "Any":
            yield annotation.lineno


def test_few_annotations_are_any_alone() -> None:
    found = [f"{name}:{line}" for name, tree in trees().items() for line in bare_any(tree)]
    assert len(found) <= BARE_ANY, "\n".join([f"{len(found)} of them:", *found])


UNSAFE = re.compile(
    r"\bpickle\.|import pickle|torch\.load\(|weights_only=False|yaml\.load\(|(?<![\w.])eval\("
    r"|(?<![\w.])exec\(|trust_remote_code=True|allow_pickle=True"
    r"|(?<!path)\.expanduser\(|Path\.home\("
)
"""The last two raise RuntimeError for unknown users; `os.path.expanduser` leaves such a path."""


def test_nothing_unsafe_is_called() -> None:
    offenders = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            offenders += [f"{name_of(path)}:{number} {found}" for found in UNSAFE.findall(line)]
    report(offenders)


def opening(tree: ast.Module) -> str:
    """The first line of a file's docstring."""
    return (ast.get_docstring(tree) or "").split("\n")[0]


def test_every_file_opens_with_one_sentence() -> None:
    report([name for name, tree in trees().items() if not opening(tree).endswith((".", "?"))])


def test_the_architecture_page_lists_every_folder() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = {
        file.parent.relative_to(ROOT).as_posix(): opening(trees()[name_of(file)])
        for file in ROOT.glob("trainer/*/__init__.py")
    }
    report([n for n, sentence in folders.items() if f"| `{n}/` | {sentence} |" not in page])


def test_no_drawers() -> None:
    drawers = {"utils", "helpers", "common", "misc", "manager", "base"}
    report([path.as_posix() for path in SOURCES if path.stem in drawers])


BROKEN = {
    "launch": "import hydra\nimport trainer.registry",
    "recipes.one": "def made():\n    from recipes.two import Two",
    "recipes.two": '"""No end"""\nimport accelerate',
    "trainer.registry": "import typing\nif typing.TYPE_CHECKING:\n    from trainer.hub import find",
    "trainer.hub": "import trainer.registry\nimport launch\nimport recipes.one",
}
"""Files that break every rule about imports."""


def test_bare_any_is_counted() -> None:
    code = "x: Any\ndef y(*z: Any, w: object, **v: list[Any]) -> Any: ...\nNamed: TypeAlias = Any"
    assert sorted(bare_any(ast.parse(code))) == [1, 2, 2]


def test_the_rules_report_all_that_breaks_them() -> None:
    rules = {
        test_imports_go_to_lower_layers: ["trainer.hub imports launch", "trainer.hub imports rec"],
        test_no_modules_import_each_other: ["launch, trainer.hub, trainer.registry"],
        test_packages_are_imported_where_they_belong: ["launch imports hydra", "two imports accel"],
        test_parts_do_not_import_each_other: ["recipes.one imports recipes.two"],
        test_every_file_opens_with_one_sentence: ["recipes.two", "trainer.registry"],
    }
    broken = {name: ast.parse(text) for name, text in BROKEN.items()}
    with mock.patch.dict(globals(), trees=lambda: broken):
        for rule, offenders in rules.items():
            with pytest.raises(AssertionError) as failure:
                rule()
            assert all(each in str(failure.value) for each in offenders), rule.__name__
