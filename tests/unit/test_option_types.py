"""Option types: every dataclass of options refuses None for a number and a text for a list."""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

from recipes.sentence_embedding import SentenceEmbedding
from trainer.callbacks.early_stopping import EarlyStopping
from trainer.config.sections import CLOSED
from trainer.data.mixture import Source
from trainer.devices.options import DeviceOptions
from trainer.errors import InputError
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.option_types import Options
from trainer.pushing.push import Destination
from trainer.pushing.push_settings import PushSettings

CONFIGS = Path(__file__).parents[2] / "configs"
OTHERS = (LoRASettings, Destination, DeviceOptions, EarlyStopping, Source, SentenceEmbedding)


def named_classes() -> set[type[Any]]:
    """The classes that a config can name with `_target_`."""
    files = (path.read_text(encoding="utf-8") for path in CONFIGS.glob("**/*.yaml"))
    names = {name for text in files for name in re.findall(r"_target_: ([\w.]+)", text)}
    parts = (name.rpartition(".") for name in names)
    return {getattr(importlib.import_module(module), name) for module, _, name in parts}


CLASSES = sorted({*CLOSED.values(), *OTHERS, *named_classes()}, key=lambda cls: cls.__name__)


def wrong_values(cls: type[Any]) -> Iterator[tuple[str, object]]:
    """The fields of a class, each with a value of the wrong type."""
    hints = get_type_hints(cls)
    for each in fields(cls):
        hint = hints[each.name]
        types = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if {int, float} & set(types) and type(None) not in types:
            yield each.name, None
        if {int, float} & set(types) and not {str, Any} & set(types):
            yield each.name, "a text"
        if any(get_origin(kind) in (list, tuple) for kind in types) and str not in types:
            yield each.name, "a text"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_value_of_the_wrong_type_is_one_line(cls: type[Any]) -> None:
    for name, value in wrong_values(cls):
        with pytest.raises(InputError, match=rf"^[\w.]+\.{name}: found {value!r}; accepted: ."):
            cls(**{name: value})


def test_the_cases_are_not_empty() -> None:
    cases = {(cls.__name__, *case) for cls in CLASSES for case in wrong_values(cls)}
    assert len(cases) > 150
    assert {("PushSettings", "tags", "a text"), ("LoRASettings", "dropout", None)} <= cases
    assert {("ModelSettings", "freeze", "a text"), ("MaskedLM", "max_length", None)} <= cases


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: PushSettings(tags="v1"),
            "push.tags: found 'v1'; accepted: a list, such as ['v1']",
        ),
        (lambda: PushSettings(tags=[5]), "push.tags: found '5'; accepted: a name of letters"),
        (lambda: PushSettings(private=None), "push.private: found None; accepted: true, false"),
        (lambda: Destination("a/b", tags="v1"), "push.tags: found 'v1'; accepted: a list"),
        (lambda: LoRASettings(2, dropout=None), "model.lora.dropout: found None; accepted: a num"),
        (
            lambda: LoRASettings("2"),
            "model.lora.rank: found '2'; accepted: a whole number, or null",
        ),
        (lambda: EarlyStopping(None), "callbacks.early_stopping.patience: found None; accepted: a"),
    ],
)
def test_the_line_names_the_key(make: Any, line: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(line)


@dataclass(frozen=True)
class Loose(Options, where="loose"):
    """Options of someone else's package."""

    count: int = None  # type: ignore[assignment]
    share: float = 0.5
    names: list[str] = field(default_factory=list)
    either: int | str = 3
    unknown: "Missing" = None  # type: ignore[name-defined]  # noqa: F821


@dataclass(frozen=True)
class Known(Options, where="known"):
    count: int = None  # type: ignore[assignment]
    share: float = 0.5
    names: list[str] = field(default_factory=list)
    either: int | str = 3
    switch: bool = False


def test_numbers_of_other_libraries_defaults_and_unknown_types_pass() -> None:
    assert Loose(unknown=5, share="x").unknown == 5  # types that cannot be looked up
    whole = (3, np.int64(3), np.array(3), torch.tensor(3))
    for number in whole:
        assert Known(count=number, share=number).count == 3
    assert Known(share=np.float32(0.25)).share == Known(share=torch.tensor(0.25)).share == 0.25
    for names in (["a"], ("a",), {"a"}, np.array(["a"]), dict(a=1)):
        assert "a" in Known(names=names).names
    assert replace(Known(), either="auto").count is None  # the default, though not an int
    assert Known(switch=1).switch and Known(switch=np.True_).switch
    for name, value in (("count", 2.5), ("share", True), ("switch", "false"), ("either", None)):
        with pytest.raises(InputError, match=f"^known.{name}: found "):
            Known(**{name: value})
