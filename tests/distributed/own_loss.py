"""Trains a model of this package with its own loss, whole or sharded: for test_own_loss.py."""

import json
from pathlib import Path

import torch

from tests.unit.test_exactness import tiny_model
from trainer.devices.options import DeviceOptions
from trainer.runs.context import RunContext
from trainer.trainer import Trainer

ROWS = [{"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor(n % 5)} for n in range(16)]


def main(folder: Path) -> None:
    found = {}
    for strategy in ("ddp", "fsdp"):
        torch.manual_seed(0)
        run = Trainer(
            tiny_model().double(),
            settings={"max_steps": 2, "global_batch_size": 8, "precision": "fp32"},
            train_dataset=ROWS,
            progress=False,
            context=RunContext(devices=DeviceOptions(strategy=strategy)),
        )
        found[strategy] = run.fit()["train_loss"]
    if run.ranks.is_main:
        (folder / f"{run.ranks.world_size}.json").write_text(json.dumps(found))
