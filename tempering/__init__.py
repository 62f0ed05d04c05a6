"""The public names of `trainer`, imported when they are first used, and `tempering.recipes`."""

import importlib
from typing import TYPE_CHECKING

from tempering.own_modules import claim

claim("trainer", "recipes")

import trainer  # noqa: E402

if TYPE_CHECKING:
    from tempering import recipes as recipes
    from trainer import *  # noqa: F403

__all__ = [*trainer.__all__, "recipes"]


def __getattr__(name: str) -> object:
    if name == "recipes":
        return importlib.import_module("tempering.recipes")
    if name in trainer.__all__ or name[:1].isupper():
        return trainer.__getattr__(name)
    raise AttributeError(f"module 'tempering' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
