"""The next-token loss of a sharded model: it reads the output weights after the forward pass."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.ports import reserved_port
from trainer.models.auto import AutoConfig, AutoModelForCausalLM
from trainer.tasks.losses import next_token_loss

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def built(tied):
    torch.manual_seed(0)
    config = AutoConfig({"model_type": "llama", **SIZES, "tie_word_embeddings": tied})
    return AutoModelForCausalLM.from_config(config).double()


def loss_of(model, rank):
    torch.manual_seed(rank)
    ids = torch.randint(64, (20,))
    outputs = model(ids, sequence_lengths=torch.tensor([12, 8]))
    return next_token_loss(outputs.projection, ids).sum


def work(rank, port, folder):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for tied in (True, False):
        whole, sharded = built(tied), built(tied)
        ((loss_of(whole, 0) + loss_of(whole, 1)) / 2).backward()
        for layer in sharded.body.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        loss_of(sharded, rank).backward()
        for one, other in zip(sharded.parameters(), whole.parameters(), strict=True):
            gradient = one.grad.full_tensor()
            torch.testing.assert_close(gradient, other.grad, rtol=1e-12, atol=1e-14)
        (folder / f"{rank} {tied}").touch()
    dist.destroy_process_group()


def test_a_sharded_models_loss_has_the_gradients_of_the_whole(tmp_path: Path) -> None:
    """fully_shard over gloo, two ranks, the output weights tied to the embeddings or not."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, __file__, tmp_path],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 4


if __name__ == "__main__":
    with reserved_port() as port:
        mp.start_processes(work, (port, Path(sys.argv[1])), nprocs=2, start_method="fork")
