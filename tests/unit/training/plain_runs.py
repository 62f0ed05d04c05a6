"""Plain modules and rows for the tests of Trainers without a recipe."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.settings import TrainSettings
from trainer.trainer import Trainer


class Line(nn.Module):
    """y = weight x + bias for every entry of x; returns `out`: a tensor, a dict or a tuple."""

    def __init__(self, out: str = "tensor") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))
        self.out = out

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        y = x * self.weight + self.bias
        if self.out == "tensor":
            return y
        loss = None if labels is None else (y - labels).square().mean()
        if self.out == "tuple":
            return (y,) if loss is None else (loss, y)
        return {"y": y} if loss is None else {"loss": loss, "y": y}


def rows(number: int = 24) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(number, generator=generator, dtype=torch.float64)
    return [{"x": each, "labels": 2 * each + 3} for each in x]


def ragged(number: int = 24) -> list[dict[str, Tensor]]:
    """Rows of 1 to 4 entries."""
    generator = torch.Generator().manual_seed(0)
    sizes = [1 + n % 4 for n in range(number)]
    found = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    return [{"x": x, "labels": 2 * x + 3} for x in found]


def squared(outputs: Tensor, batch: Any) -> tuple[Tensor, int]:
    return (outputs - batch["labels"]).square().sum(), outputs.numel()


SETTINGS: dict[str, Any] = {
    "global_batch_size": 8,
    "num_epochs": 2,
    "learning_rate": 0.05,
    "lr_scheduler": "constant",
    "optimizer": "sgd",
    "precision": "fp32",
    "weight_decay": 0.0,
    "logging_steps": 1,
}


def trainer(train: Any, folder: Path | None = None, **changed: Any) -> Trainer:
    """A Trainer of a Line in float64; `settings` replace some of SETTINGS."""
    settings = TrainSettings(**{**SETTINGS, **changed.pop("settings", {})})
    arguments = {"model": Line(), "loss": squared, **changed}
    return Trainer(**arguments, settings=settings, train_dataset=train, output_dir=folder)


def weights(run: Trainer) -> list[float]:
    return [float(parameter) for parameter in run.model.parameters()]
