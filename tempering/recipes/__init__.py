"""The recipes: `tempering.recipes.CausalLM` is the class in recipes/causal_lm.py."""

import importlib
from pathlib import Path

import recipes

FILES = sorted(
    path.stem for path in Path(recipes.__path__[0]).glob("*.py") if path.stem != "__init__"
)


def __getattr__(name: str) -> object:
    """A recipe's class or module; the file is named like the class (causal_lm: CausalLM)."""
    for file in FILES:
        if file == name:
            return importlib.import_module(f"recipes.{file}")
        if file.replace("_", "") == name.lower():
            return getattr(importlib.import_module(f"recipes.{file}"), name)
    raise AttributeError(f"module 'tempering.recipes' has no attribute '{name}'")


def __dir__() -> list[str]:
    return FILES
