"""Family: the config, tensor names and heads of one model family; one file per family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from torch import Tensor, nn

from trainer import registry
from trainer.errors import InputError
from trainer.models.body import Body
from trainer.models.config import ModelConfig
from trainer.models.family_config import FamilyConfig, find_family_config
from trainer.models.family_config import native_families as native_families
from trainer.models.formats.expert_files import StoredExperts


@dataclass(frozen=True)
class FamilyHead:
    """One head of a family. Fields that are None have the values in the head's own file."""

    build: Callable[[ModelConfig], nn.Module | None] | None = None
    """Builds the head's module."""
    keys: Mapping[str, str] | None = None
    """The head's modules -> their names in files on the hub; "" is the head itself."""
    tied: Mapping[str, str] | None = None
    """Tied tensors: second name in files on the hub -> first name, under which they are saved. If
    the config has the entry tie_word_embeddings, they are tied only when it is true."""
    class_suffix: str | None = None
    """The end of the class name in transformers, such as ForSequenceClassification."""
    pooler: bool = False
    """Whether the body under this head has a pooler, as in transformers."""


class HeadClass(Protocol):
    """The interface of a head in `trainer/models/heads` that families use."""

    task: str
    kinds: tuple[str, ...]
    bare: bool
    keys: Mapping[str, str]
    class_suffix: str

    @staticmethod
    def build(config: ModelConfig) -> nn.Module | None: ...

    @staticmethod
    def tied_names(family: "Family") -> Mapping[str, str]: ...


@dataclass(frozen=True)
class ResolvedHead:
    """One head of a family with the head's defaults filled in."""

    build: Callable[[ModelConfig], nn.Module | None]
    keys: Mapping[str, str]
    tied: Mapping[str, str]
    class_suffix: str
    pooler: bool
    bare: bool


@dataclass(frozen=True, kw_only=True)
class Family(FamilyConfig):
    """A model family, defined in the file named after its `model_type`."""

    name: str
    """The prefix of class names in transformers: Bert, as in BertModel."""
    prefix: str
    """The prefix of the body's tensor names in files of a model with a head."""
    keys: Mapping[str, str]
    """The body's modules -> their names in files on the hub; * is a placeholder for a layer's
    index."""
    body: Callable[[ModelConfig, bool], Body]
    """Builds the body from a config and a flag: whether the body has a pooler."""
    own_heads: Mapping[str, FamilyHead] = field(default_factory=dict)
    """Task ("base": no head) -> settings in which this family's head differs from the head's own
    file."""
    draw: Callable[[ModelConfig, str, Tensor], None] | None = None
    """Initializes a new matrix, given its name in this package; None: a normal distribution with
    the standard deviation initializer_range."""
    stored_experts: StoredExperts | None = None
    """The names under which files store the experts of a mixture."""
    peft_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Module names in files on the hub -> PEFT's names, if they differ. PEFT's names are the names
    of modules in transformers; several names mean that one matrix is several modules there. * is a
    placeholder for a layer's index."""
    known_extras: tuple[str, ...] = ()
    """Patterns of names of tensors that no model of this package needs: other heads, buffers."""

    @property
    def heads(self) -> dict[str, ResolvedHead]:
        """Task ("base": no head) -> head, for heads that fit this kind of body and own heads."""
        found = find_heads().items()
        return {
            task: self._head(cls)
            for task, cls in found
            if self.kind in cls.kinds or task in self.own_heads
        }

    def require(self, model_type: object, name: str, where: str) -> None:
        """Raise InputError, which names the class `name`, unless `model_type` is this family's."""
        if model_type != self.model_type:
            raise InputError(
                f"{where}: model_type: found {model_type!r}; accepted by {name}: "
                f"{self.model_type} (the classes that begin with Auto take every family)"
            )

    def _head(self, default: HeadClass) -> ResolvedHead:
        own = self.own_heads.get(default.task, FamilyHead())
        return ResolvedHead(
            build=default.build if own.build is None else own.build,
            keys=default.keys if own.keys is None else own.keys,
            tied=default.tied_names(self) if own.tied is None else own.tied,
            class_suffix=own.class_suffix or default.class_suffix,
            pooler=own.pooler,
            bare=default.bare,
        )


def find_family(model_type: object) -> Family:
    """The family in `families/<model_type>.py`, in this package or one that the user trusts.

    Raises InputError, naming the available families, for an unknown `model_type`.
    """
    return _as_family(find_family_config(model_type))


def family_of(config: ModelConfig) -> Family:
    """The family that a config belongs to."""
    return _as_family(config.family)


def _as_family(config: FamilyConfig) -> Family:
    assert isinstance(config, Family), f"{config.model_type}: FAMILY is no Family"
    return config


def find_heads() -> Mapping[str, HeadClass]:
    """Task -> head: the files in `heads/` of this package and of packages that the user trusts.

    Heads of installed packages are included once `find_head` has imported them.
    """
    return {**_heads_of(registry.trusted()), **_installed_heads}


def find_head(task: str) -> HeadClass:
    """The head of a task by its name in recipes, imported now if it is in an installed package.

    Raises InputError, naming the available heads, if the task has no head, or if two packages
    define one.
    """
    entry = registry.locate(registry.HEADS, task)
    found = find_heads()
    if task in found:
        return found[task]
    if entry is None:
        raise registry.unknown(registry.HEADS, task, "recipe: head", list(found))
    head: HeadClass = registry.load(registry.HEADS, entry)
    if head.task != task:
        raise InputError(f"{entry}: found a head for '{head.task}'; accepted: task = '{task}'")
    _installed_heads[task] = head
    return head


_installed_heads: dict[str, HeadClass] = {}


@lru_cache(maxsize=4)
def _heads_of(trusted: tuple[str, ...]) -> Mapping[str, HeadClass]:
    found: dict[str, HeadClass] = {}
    for entry in registry.entries(registry.HEADS):
        if entry.installed:
            continue  # imported when looked up by name
        head: HeadClass = registry.load(registry.HEADS, entry)
        if found.setdefault(head.task, head) is not head:
            raise InputError(f"{entry}: found a second head for the task '{head.task}'")
    return found
