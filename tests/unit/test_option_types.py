"""Option types: every dataclass of options refuses None for a number and a text for a list."""

import importlib
import re
from collections.abc import Iterator
from dataclasses import KW_ONLY, InitVar, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

from recipes.sentence_embedding import SentenceEmbedding
from recipes.seq2seq import Seq2Seq
from trainer.callbacks.early_stopping import EarlyStopping
from trainer.config.sections import CLOSED
from trainer.data.mixture import Source
from trainer.devices.options import DeviceOptions
from trainer.errors import InputError
from trainer.metrics.metric import Metric
from trainer.metrics.score import Score
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.option_types import Options
from trainer.pushing.push import Destination
from trainer.pushing.push_settings import PushSettings
from trainer.runs.run import LaunchSettings

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
        (
            lambda: LaunchSettings(None),
            "launch.num_processes: found None; accepted: a whole number, a",
        ),
        (
            lambda: Seq2Seq(early_stopping=None),
            "recipe.early_stopping: found None; accepted: true, false, never",
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


@dataclass(frozen=True)
class Ordered(Options, where="ordered"):
    """A constructor's order that is not the order of the fields."""

    kind: ClassVar[str] = "a"
    start: InitVar[int]
    made: int = field(default=0, init=False)
    _: KW_ONLY
    switch: bool = False


@dataclass(frozen=True)
class Later(Ordered):
    count: int = field(default=1, kw_only=False)
    names: list[str] = field(default_factory=list)


def test_positional_values_are_those_of_the_constructor() -> None:
    found = Later(3, 5, ["a"], switch=True)
    assert (found.count, found.names, found.switch) == (5, ["a"], True)
    with pytest.raises(InputError, match="^ordered.names: found 'a'; accepted: a list"):
        Later(3, 5, "a")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="^ordered.count: found True; accepted: a whole number$"):
        Later(3, True)


@dataclass
class Converted(Options, where="converted"):
    """A constructor of its own, which converts texts."""

    names: list[str] = field(default_factory=list)
    count: int = 1

    def __init__(self, names: str, count: int) -> None:
        self.names, self.count = names.split(","), count


class Patient(EarlyStopping):
    """Without fields of its own, and therefore not decorated."""


def test_a_constructor_that_converts_is_left_alone_and_an_inherited_one_is_checked() -> None:
    assert Converted("a,b", 2).names == ["a", "b"]
    with pytest.raises(InputError, match="^converted.count: found '2'; accepted: a whole number$"):
        Converted("a", "2")  # type: ignore[arg-type]
    line = r"^callbacks\.test_option_types\.patience: found None; accepted: a whole number$"
    with pytest.raises(InputError, match=line):
        Patient(None)  # type: ignore[arg-type]


class Counted:
    made: int

    def __new__(cls, count: int) -> "Counted":
        found = super().__new__(cls)
        found.made = count
        return found


@dataclass
class Both(Options, Counted, where="both"):
    count: int


def test_another_base_may_make_the_object_from_the_values() -> None:
    assert Both(3).made == Both(count=4).made - 1 == 3


@dataclass(frozen=True)
class Unknown(Known):
    extra: "np.Missing" = None  # type: ignore[name-defined]


def test_types_that_cannot_be_looked_up_leave_inherited_fields_checked() -> None:
    assert Unknown(extra="x").extra == "x"
    with pytest.raises(InputError, match="^known.share: found 'x'"):
        Unknown(share="x")  # type: ignore[arg-type]


@dataclass
class Placed(Options):
    where: str
    count: int = 1


def test_a_field_may_be_called_where_and_a_key_may_be_missing() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'where'"):
        Placed()  # type: ignore[call-arg]
    with pytest.raises(InputError, match="^count: found 'x'; accepted: a whole number$"):
        Placed("here", "x")  # type: ignore[arg-type]


class Tagged:
    tag: ClassVar[object] = None

    def __init_subclass__(cls, tag: object = None, **arguments: object) -> None:
        super().__init_subclass__(**arguments)
        cls.tag = tag


@pytest.mark.parametrize("base", [Metric, Score])
def test_arguments_of_a_class_reach_other_bases(base: Any) -> None:
    class Both(base, Tagged, tag="x"):  # type: ignore[misc]
        pass

    assert Both.tag == "x"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.zeros((2, 2)), "array([[0., 0.], [0., 0.]])"),
        (torch.tensor(1, device="meta"), "tensor(..., device='meta', size=(), dtype=torch.int64)"),
    ],
)
def test_arrays_and_tensors_without_a_value_are_one_line(value: Any, found: str) -> None:
    with pytest.raises(InputError) as caught:
        Known(count=value)
    assert str(caught.value) == f"known.count: found {found}; accepted: a whole number"
