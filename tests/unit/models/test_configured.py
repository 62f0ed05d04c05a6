"""Models whose inputs are not texts: their folders."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from trainer.models.configured import ConfiguredModel


@dataclass(frozen=True)
class Sizes:
    """The settings of a model."""

    width: int = 3


class Linear(ConfiguredModel):
    """A model with a single layer."""

    task = "linear"
    Config = Sizes

    def __init__(self, config: Sizes) -> None:
        super().__init__(config)
        self.layer = nn.Linear(config.width, 1)


def test_a_folder_is_made_and_read_again(tmp_path: Path) -> None:
    model = Linear.from_config({"width": 4})
    model.save_pretrained(tmp_path / "new" / "folder")
    again = Linear.from_pretrained(tmp_path / "new" / "folder")
    assert torch.equal(again.layer.weight, model.layer.weight) and again.config == Sizes(4)
