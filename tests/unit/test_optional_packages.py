"""Every module but a few imports without the packages of the extras."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
ALSO = {"llama_cpp", "keras", "tf_keras", "triton", "peft"}
"""Optional packages that no extra for users names."""
OTHERS_IMPORT = {"tensorboard"}
"""Accelerate imports it if its metadata is there."""
NEED = {
    "trainer.export.llama_cpp_process": {"llama_cpp"},
    "trainer.interop.tensorflow": {"keras", "tensorflow"},
    "trainer.models.attention.flash_kernels": {"triton"},
    "trainer.models.blocks.cross_entropy_kernel": {"triton"},
    "trainer.serving.": {"fastapi", "prometheus_client", "uvicorn"},
}
"""How the names of modules begin that are imported only after their packages were found."""
PROGRAM = """
import importlib, json, pkgutil, sys
from importlib.machinery import PathFinder
blocked = set(json.loads(sys.argv[1]))
class Base(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in blocked:
            return PathFinder.find_spec(name, path, target)
sys.meta_path = [Base if finder is PathFinder else finder for finder in sys.meta_path]
import trainer, recipes, tempering
missing = {}
for package in (trainer, recipes, tempering):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as fault:
            missing[module.name] = fault.name
print(json.dumps(missing))
"""


def optional() -> set[str]:
    """The importable names of the packages that only an extra installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [
        line for name, lines in extras.items() if name not in ("test", "dev") for line in lines
    ]
    return {Requirement(line).name.replace("-", "_") for line in lines} - OTHERS_IMPORT | ALSO


def test_the_base_installation_imports_every_module() -> None:
    command = [sys.executable, "-c", PROGRAM, json.dumps(sorted(optional()))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for module, package in json.loads(done.stdout.splitlines()[-1]).items():
        needed = next((of for start, of in NEED.items() if module.startswith(start)), set())
        assert package in needed, f"{module} imports {package}"
