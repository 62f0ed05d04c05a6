"""Models configured by a dataclass: every kind of setting survives a folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainer.errors import InputError
from trainer.models.configured import ConfiguredModel


@dataclass
class Window:
    width: int = 3


@dataclass
class Settings:
    size: int = 2
    rate: float = 0.5
    limit: int | None = None
    shape: tuple[Any, ...] = (8, 8)
    window: Window = field(default_factory=Window)
    names: list[str] = field(default_factory=list)


class Small(ConfiguredModel):
    task = "small"
    Config = Settings

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self.layer = nn.Linear(config.size, config.size)


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"limit": 4, "shape": ((1, 2), (3, 4)), "window": {"width": 5}, "names": ["a"], "rate": 1},
    ],
)
def test_settings_survive_a_folder(entries: dict[str, Any], tmp_path: Path) -> None:
    model = Small.from_config(entries)
    assert isinstance(model.config.window, Window) and isinstance(model.config.rate, float)
    model.save_pretrained(tmp_path / "new")
    again = Small.from_pretrained(tmp_path / "new")
    assert again.config == model.config
    assert torch.equal(again.layer.weight, model.layer.weight)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"size": "2"}, "model.config: size: found '2'; accepted: int"),
        ({"size": None}, "model.config: size: found 'None'; accepted: int"),
        ({"shape": 3}, "model.config: shape: found '3'; accepted: tuple"),
        ({"window": 3}, "model.config: window: found '3'; accepted: Window"),
        ({"window": {"with": 3}}, "model.config: window: no entry 'with'; accepted: width"),
        ({"sise": 3}, "model.config: no entry 'sise'; accepted: size, "),
    ],
)
def test_wrong_settings_are_refused(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Small.from_config(entries)
    assert str(caught.value).startswith(message)
