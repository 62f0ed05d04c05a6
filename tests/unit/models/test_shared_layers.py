"""Layers that run several times in a forward pass (ALBERT): masks, sharding, learning rates."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.unit.models.test_training import small
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.blocks.dropout_hash import token_keys
from trainer.settings import TrainSettings
from trainer.training.freezing import freeze
from trainer.training.parameter_groups import NamedParameters, parameter_groups

TASK = "sequence_classification"
IDS = torch.arange(5, 13)


def keys() -> torch.Tensor:
    zeros = torch.zeros_like(IDS)
    return token_keys(1, 2, zeros, zeros, torch.arange(len(IDS)))


def test_each_pass_has_masks_of_its_own() -> None:
    """Also the masks of adapters, which are inside of the shared layer."""
    model = small("albert", TASK).train()
    model.add_lora(LoRASettings(rank=2, dropout=0.5), base="")
    (_, layer), seen = model.body.units[0], []
    layer.attention_dropout.register_forward_pre_hook(lambda _, given: seen.append(given))
    query = layer.attention.query.lora_dropout
    query.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    call = {"sequence_lengths": torch.tensor([len(IDS)]), "dropout_keys": keys()}
    model(IDS, **call)
    first, second = (found for found in seen if isinstance(found, torch.Tensor))
    assert not torch.equal(first, second)
    masks = [query.mask(torch.ones(len(IDS), 16), found) for found in (first, second)]
    assert not torch.equal(*masks)
    again = list(seen)
    seen.clear()
    model(IDS, **call)
    assert torch.equal(again[0], seen[0])


def test_rates_and_freezing_see_each_shared_layer_once() -> None:
    model = small("albert", TASK)
    named = NamedParameters(list(model.named_parameters()), model)
    assert named.num_units == 1
    rates = {
        name: group["lr_scale"]
        for group in parameter_groups(named, TrainSettings(layer_decay=0.5))
        for name, p in named
        if any(p is each for each in group["params"])
    }
    assert rates["body.embeddings.projection.weight"] == 0.25
    assert rates["body.layers.0.0.attention.query.weight"] == 0.5
    assert rates["head.classifier.weight"] == 1.0
    assert freeze(model, ["albert.encoder.albert_layer_groups.0.*"]) == 16
    assert not model.body.layers[0][0].attention.query.weight.requires_grad


SHARDED = """
import sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.unit.models.test_training import batch_of, small
from trainer.devices.sharding import shard

def work(rank, store):
    store = dist.FileStore(store, 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for recompute in (False, True):
        model, whole = (small("albert", "sequence_classification").eval() for _ in range(2))
        batches = [batch_of("sequence_classification") for _ in range(2)]
        batches[1]["input_ids"] = batches[1]["input_ids"].flip(-1)
        mean = sum(whole(**batch).loss for batch in batches) / 2
        wanted = torch.autograd.grad(mean, list(whole.parameters()))
        if recompute:
            model.train()
            model.gradient_checkpointing_enable()
            for module in model.modules():
                module.p = 0.0
        shard(model, torch.device("cpu"))
        model(**batches[rank]).loss.backward()
        for (name, parameter), gradient in zip(model.named_parameters(), wanted):
            torch.testing.assert_close(parameter.grad.full_tensor(), gradient, msg=name)
    print("equal", flush=True)
    # a rank that ends could reset connections that the other one still reads
    store.set(f"{rank} is done", "")
    store.wait(["0 is done", "1 is done"])

if __name__ == "__main__":
    # in a file, since another process could take a free port
    mp.start_processes(work, (sys.argv[-1],), nprocs=2, start_method="fork")
"""


@pytest.mark.slow
def test_sharded_ranks_get_the_gradients_of_all_passes(tmp_path: Path) -> None:
    script, root = tmp_path / "sharded.py", Path(__file__).parents[3]
    script.write_text(SHARDED)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "store"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0 and done.stdout.count("equal") == 2, done.stderr
