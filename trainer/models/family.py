"""What one model family is: its config, its tensors' names, its heads; one file per family."""

import importlib.util
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

import trainer.models
from trainer.errors import InputError, nearest

if TYPE_CHECKING:
    from trainer.models.config import ModelConfig


@dataclass(frozen=True)
class FamilyHead:
    """One head of a family."""

    build: Callable[["ModelConfig"], nn.Module | None] | None
    """Makes the head's module, if it has one of its own; None: the bare model."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """The head's modules -> the hub's names; "" is the head itself."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """The hub's second names of tensors -> their first, under which they are saved; where the
    config says so, if it can (tie_word_embeddings)."""
    class_suffix: str | None = None
    """Completes the hub's class name where this family's is not the task's own."""
    pooler: bool = False
    """Whether the body below this head has a pooler."""


@dataclass(frozen=True)
class Family:
    """A row of facts about one `model_type`, in the file of that name."""

    model_type: str
    """As in config.json; its file is named so, with _ for -."""
    name: str
    """As in the hub's class names: Bert, as in BertModel."""
    prefix: str
    """What the hub puts before the body's tensors in a model with a head."""
    defaults: Mapping[str, Any]
    """The entries of config.json with transformers' defaults; None stands for "not set"."""
    keys: Mapping[str, str]
    """The body's modules -> the hub's names; * is a layer's number."""
    heads: Mapping[str, FamilyHead]
    """Task ("base" is the bare model) -> head."""
    body: Callable[["ModelConfig", bool], nn.Module]
    """Makes the body from a config and whether it has a pooler."""
    synonyms: Mapping[str, str] = field(default_factory=dict)
    """The name that our code uses -> the entry of config.json."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """What our code asks for and this family's config.json does not say."""
    optional: Mapping[str, Any] = field(default_factory=dict)
    """Entries that are read where a file has them, with what their absence means; never added."""
    required: Mapping[str, Any] = field(default_factory=dict)
    """Entries that must have this value: the variants that are not built."""
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Entries that must have one of these values."""
    no_effect: frozenset[str] = frozenset()
    """Entries that say nothing about what this family's models compute."""
    draw: Callable[["ModelConfig", str, Tensor], None] | None = None
    """Fills a fresh matrix, told our name of it; None: normal, as wide as initializer_range."""
    positions_after_pad: bool = False
    """Whether positions count real tokens from pad_token_id + 1, and a pad's is pad_token_id."""
    known_extras: tuple[str, ...] = ()
    """Patterns of tensors that a file may hold and no model here needs: other heads, buffers."""


def find_family(model_type: object) -> Family:
    """The family in `trainer/models/<model_type>.py`. Raises InputError naming the native ones."""
    module = model_type.replace("-", "_") if isinstance(model_type, str) else ""
    if re.fullmatch(r"[a-z][a-z0-9_]*", module):
        family = _family_in(module)
        if family is not None and family.model_type == model_type:
            return family
    native = native_families()
    hint = nearest(str(model_type), native)
    accepted = ", ".join(native)
    raise InputError(f"config.json: model_type: found {model_type!r}; accepted: {accepted}{hint}")


def native_families() -> list[str]:
    """The model types that have a file here."""
    found = []
    for module in pkgutil.iter_modules(trainer.models.__path__):
        try:
            family = _family_in(module.name)
        except ModuleNotFoundError as missing:  # Triton, which its kernels' file needs
            if str(missing.name).startswith("trainer"):
                raise
            continue
        if family is not None:
            found.append(family.model_type)
    return found


def _family_in(module: str) -> Family | None:
    name = f"{trainer.models.__name__}.{module}"
    if importlib.util.find_spec(name) is None:
        return None
    return getattr(importlib.import_module(name), "FAMILY", None)
