"""Models are plain modules: trained in a loop, wrapped, parallel, compiled, with checkpointing."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.cuda.models import FIRST
from trainer.models.auto import TASKS, AutoConfig
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.dropout_hash import token_keys
from trainer.models.family import find_family, native_families

FAMILIES = native_families()
IDS = torch.arange(4, 16).view(3, 4)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
ANSWERS = {
    "causal_lm": {"labels": IDS},
    "masked_lm": {"labels": IDS},
    "multiple_choice": {"labels": torch.tensor([2])},
    "seq2seq_lm": {"labels": IDS, "decoder_input_ids": IDS.flip(0)},
    "question_answering": {
        "start_positions": torch.tensor([0, 1, 2]),
        "end_positions": torch.tensor([2, 1, 3]),
    },
    "replaced_token_detection": {"labels": IDS % 2},
    "sequence_classification": {"labels": torch.tensor([0, 1, 1])},
    "token_classification": {"labels": IDS % 2},
    "token_classification_crf": {"labels": IDS % 2},
}

CASES = [(family, task) for family in FAMILIES for task in find_family(family).heads]
CASES = [(family, task) for family, task in CASES if task not in ("base", "multi_task")]
"""Multi-task models consist of other heads, which the config must name."""
WITH_LOSS = [(family, task) for family, task in CASES if task in ANSWERS]
"""The recipes of the other heads compute the loss (sentence embeddings)."""
OWN_BLOCKS = (*FIRST, "t5", "bart")
PRETRAINED = ("causal_lm", "masked_lm", "seq2seq_lm")


def by_weight(cases):
    """All heads of families whose blocks others share; of other families the pretraining head, and
    in slow tests all."""
    slow = pytest.mark.slow
    return [
        pytest.param(family, task, marks=() if family in OWN_BLOCKS or task in PRETRAINED else slow)
        for family, task in cases
    ]


def small(family, task):
    sizes = {
        "vocab_size": 20,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 8,
    }
    known = find_family(family)
    sizes |= {"num_key_value_heads": 1} if "num_key_value_heads" in known.defaults else {}
    if known.kind == "encoder_decoder":
        sizes |= {"num_decoder_layers": 2, "decoder_start_token_id": 1}
    if "decoder_ffn_dim" in known.defaults:
        sizes |= {"decoder_ffn_dim": 16, "decoder_attention_heads": 4}
    few = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    names = known.defaults.keys() | known.synonyms.keys()
    sizes |= {name: value for name, value in few.items() if name in names}
    sizes |= {"logit_scale": 1.0} if "logit_scale" in known.defaults else {}
    if "relative_attention" in known.defaults:
        sizes |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    sizes = {known.synonyms.get(name, name): value for name, value in sizes.items()}
    torch.manual_seed(0)
    config = AutoConfig({"model_type": family, "pad_token_id": 1, **sizes})
    return TASKS[task].from_config(config)


def batch_of(task):
    rows = (IDS[None], MASK[None]) if task == "multiple_choice" else (IDS, MASK)
    return dict(zip(("input_ids", "attention_mask"), rows, strict=True)) | ANSWERS[task]


def step(model, batch, optimizer):
    loss = model(**batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize(("family", "task"), by_weight(WITH_LOSS))
def test_the_loss_falls_in_a_plain_loop(family, task):
    """With dropout from torch's generator: equal seeds give equal weights."""
    model = small(family, task).train()
    twin = copy.deepcopy(model)
    losses = []
    for each in (model, twin):
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW(each.parameters(), lr=0.01)
        losses.append([step(each, batch_of(task), optimizer) for _ in range(12)])
    assert losses[0] == losses[1]
    assert sum(losses[0][-3:]) < 0.9 * sum(losses[0][:3])


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_layers_give_the_same_gradients(family):
    task = "seq2seq_lm" if find_family(family).kind == "encoder_decoder" else "token_classification"
    model = small(family, task).train()
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable()
        torch.manual_seed(2)
        loss = model(**batch_of(task)).loss
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients.append(torch.autograd.grad(loss, trained))
    assert all(map(torch.equal, *gradients))
    model.gradient_checkpointing_disable()
    assert not model.body.gradient_checkpointing


@pytest.mark.parametrize(("family", "task"), by_weight(CASES))
def test_a_sequence_is_dropped_out_alike_in_any_batch(family, task):
    """With keys, masks are functions of the sample: equal logits alone and with others."""
    model = small(family, task).train().double()
    lengths = torch.tensor([5, 2, 4])
    ids = torch.arange(4, 15)
    sample = torch.tensor([7, 3, 9]).repeat_interleave(lengths)
    token = torch.cat([torch.arange(length) for length in lengths])
    keys = token_keys(1, 2, sample, torch.zeros_like(sample), token)

    def logits(part, length, key):
        call = {"input_ids": part, "sequence_lengths": length, "dropout_keys": key}
        if task == "seq2seq_lm":
            call |= {f"decoder_{name}": value for name, value in call.items()}
        return model(**call)[0]

    together = logits(ids, lengths, keys)
    parts = zip(ids.split(lengths.tolist()), lengths, keys.split(lengths.tolist()), strict=True)
    alone = [logits(part, length[None], key) for part, length, key in parts]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)
    model.eval()
    kept = logits(ids, lengths, None)
    drops = any(module.p > 0 for module in model.modules() if isinstance(module, Dropout))
    assert torch.equal(kept, together) != drops


class LowRank(nn.Module):
    """A frozen linear layer with a trained product of two narrow matrices, wrapped as by PEFT."""

    def __init__(self, layer, rank=2):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


def test_linear_layers_can_be_wrapped():
    model = small("bert", "sequence_classification").eval()
    batch = batch_of("sequence_classification")
    before = model(**batch).logits
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name in ("query", "value"):
                setattr(module, name, LowRank(child))
    assert torch.equal(model(**batch).logits, before)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert model.num_parameters(only_trainable=True) == sum(p.numel() for p in trained) == 8 * 32
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    losses = [step(model, batch, optimizer) for _ in range(8)]
    assert losses[-1] < losses[0]


PARALLEL = """
import sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, sys.argv[1])
from test_training import ANSWERS, batch_of, small

def work(rank, store):
    store = dist.FileStore(store, 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for task in ANSWERS:
        others = {
            "causal_lm": "llama", "seq2seq_lm": "t5", "replaced_token_detection": "electra"
        }
        family = others.get(task, "roberta")
        model = small(family, task).eval().double()
        batches = [batch_of(task), batch_of(task)]
        batches[1]["input_ids"] = batches[1]["input_ids"].flip(-1)
        mean = sum(model(**batch).loss for batch in batches) / 2
        wanted = torch.autograd.grad(mean, list(model.parameters()))
        wrapped = DistributedDataParallel(model)
        wrapped(**batches[rank]).loss.backward()
        for (name, parameter), gradient in zip(model.named_parameters(), wanted):
            torch.testing.assert_close(parameter.grad, gradient, msg=f"{task} {name}")
    print("equal", flush=True)
    # a rank that ends could reset connections that the other one still reads
    store.set(f"{rank} is done", "")
    store.wait(["0 is done", "1 is done"])

if __name__ == "__main__":
    # in a file, since another process could take a free port
    mp.start_processes(work, (sys.argv[-1],), nprocs=2, start_method="fork")
"""


def test_every_head_trains_in_two_processes(tmp_path):
    """DistributedDataParallel over gloo: both ranks get the mean of the two ranks' gradients."""
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL)
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, script, here.parent, tmp_path / "store"],
        cwd=here.parents[3],
        env={**os.environ, "PYTHONPATH": str(here.parents[3])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0 and done.stdout.count("equal") == 2, done.stderr


LIKE_OTHERS = ("albert", "camembert", "electra", "mpnet", "xlm-roberta")
"""Families that compile like another one."""
GENERATED = ("bert", "modernbert", "gpt2", "qwen3")
"""Families whose compiled code is generated. The others, which share their blocks, are only traced,
in a quarter of the time."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "task"),
    [
        (f, "token_classification")
        for f in FAMILIES
        if "token_classification" in find_family(f).heads and f not in LIKE_OTHERS
    ]
    + [("llama", "causal_lm")]
    + [
        ("electra" if task == "replaced_token_detection" else "bert", task)
        for task in ANSWERS
        if task not in ("causal_lm", "seq2seq_lm", "token_classification")
    ],
)
def test_a_compiled_model_gives_the_same_loss_and_gradients(family, task):
    generated = family in GENERATED and task == "token_classification"
    torch._dynamo.reset()
    model = small(family, task).eval()
    batch = batch_of(task)
    wanted = model(**batch).loss
    gradients = torch.autograd.grad(wanted, list(model.parameters()))
    backend = "inductor" if generated else "aot_eager"
    found = torch.compile(model, dynamic=True, backend=backend)(**batch).loss
    torch.testing.assert_close(found, wanted)
    compiled = torch.autograd.grad(found, list(model.parameters()))
    for one, other in zip(compiled, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
