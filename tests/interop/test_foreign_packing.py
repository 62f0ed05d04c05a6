"""Packed batches of models of transformers have the outputs and gradients of padded ones."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from tests.interop.foreign import DECODERS, save_foreign, still
from trainer.interop import padded_model
from trainer.interop.foreign_batches import costs_less_packed
from trainer.models.packing import Layout
from trainer.tasks.losses import next_token_loss

SMALL = {"vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2}
PACKING = {"phi": True, "gpt_neox": True, "bloom": False, "mamba": False}
"""Model type -> whether its attention separates texts by their positions."""
IDS, LENGTHS = torch.arange(3, 28), torch.tensor([12, 4, 9])


@pytest.mark.parametrize("name", DECODERS)
def test_packed_batches_have_the_gradients_of_padded_ones(name: str, tmp_path: Path) -> None:
    model = still(save_foreign(name, tmp_path, **SMALL), "causal_lm").train()
    assert model.packs == PACKING.get(name, model.packs)
    if not model.packs:
        return
    found = []
    for packs in (False, True):
        with patch.object(padded_model, "costs_less_packed", lambda *_, packs=packs: packs):
            model.zero_grad()
            loss = next_token_loss(model(IDS, LENGTHS).projection, IDS).sum
            loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append(torch.cat([loss.detach()[None].double(), *gradients]))
    padded, packed = found
    assert padded.norm() > 0 and (padded - packed).norm() <= 1e-12 * padded.norm()


@pytest.mark.parametrize(
    ("lengths", "channels", "packs"),
    [
        ([500, 20, 20, 20], 768, True),  # mostly pads
        ([64, 64, 64, 64], 768, False),  # no pads, and attention over other texts
        ([9000, 10], 768, False),  # a mask of 81 million
        ([40], 768, False),
    ],
)
def test_it_is_done_where_it_costs_less(lengths: list[int], channels: int, packs: bool) -> None:
    layout = Layout(torch.tensor(lengths), torch.device("cpu"))
    assert costs_less_packed(layout, channels) == packs
