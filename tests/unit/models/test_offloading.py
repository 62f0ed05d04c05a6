"""Activation offload restores the same bits."""

import gc
import weakref

import pytest
import torch

from recipes.causal_lm import CausalLM
from trainer.errors import InputError
from trainer.models import offloading
from trainer.models.auto import TASKS, AutoConfig
from trainer.models.blocks.dropout_hash import token_keys
from trainer.models.offloading import ActivationOffload
from trainer.settings import TrainSettings
from trainer.trainer import Trainer

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 40,
}
FAMILIES = {
    "llama": {**SIZES, "num_key_value_heads": 2, "attention_dropout": 0.2},
    "gemma2": {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4},
    "mixtral": {**SIZES, "num_key_value_heads": 2, "num_local_experts": 4},
    "bert": {**SIZES, "hidden_dropout_prob": 0.2},
    "modernbert": {**SIZES, "num_attention_heads": 4, "pad_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 40, "vocab_size": 60},
}


def model_of(family, task="base"):
    torch.manual_seed(0)
    config = AutoConfig({"model_type": family, **FAMILIES[family]})
    return TASKS[task].from_config(config).train()


def gradients_of(model, passes):
    """Of sequences of several lengths, with dropout."""
    lengths = torch.tensor([9, 17, 4])
    torch.manual_seed(1)
    ids, samples = torch.randint(1, 60, (30,)), torch.arange(3).repeat_interleave(lengths)
    keys = token_keys(3, 1, samples, torch.zeros(30, dtype=torch.long), torch.arange(30))
    calls = [model(ids, sequence_lengths=lengths, dropout_keys=keys) for _ in range(passes)]
    sum(call[0].square().sum() for call in calls).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return grads


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_bits(family, recompute, monkeypatch):
    """Two forward passes may precede the backward pass."""
    monkeypatch.setattr(offloading, "SMALLEST", 1)
    model = model_of(family)
    plain = gradients_of(model, passes=2)
    if recompute:
        model.gradient_checkpointing_enable()
    moved = []
    restored = offloading._restored

    def counted(packed):
        moved.append(not isinstance(packed, torch.Tensor))
        return restored(packed)

    monkeypatch.setattr(offloading, "_restored", counted)
    model.activation_offload_enable()
    found = gradients_of(model, passes=2)
    assert found.keys() == plain.keys() and sum(moved) >= 3
    for name, gradient in plain.items():
        assert torch.equal(found[name], gradient), name


class Layer(torch.nn.Module):
    """Saves its input, an activation with gaps in memory, and an expanded one."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8, 8))

    def forward(self, x, shared):
        wide = torch.cat((x @ self.weight, x.exp()), 1)
        part = wide[:, 3:11].sin()
        return part * shared * wide[:, :8] + x[:1].expand(5, 8).cos()


def test_activations_leave_the_device_and_come_back_in_their_strides(monkeypatch):
    """Weights and shared tensors stay; nothing remains after the backward pass."""
    monkeypatch.setattr(offloading, "SMALLEST", 1)
    copies, seen = [], []
    make = offloading._HostCopy.__init__

    def remember(self, tensor, group):
        make(self, tensor, group)
        copies.append(weakref.ref(self))
        seen.append((tensor.detach().clone(), tensor.stride()))

    monkeypatch.setattr(offloading._HostCopy, "__init__", remember)
    layers, shared = [Layer(), Layer(), Layer()], torch.rand(5, 8)
    offload = ActivationOffload()
    x = torch.randn(5, 8, requires_grad=True)
    for layer in layers:
        with offload.layer(layer, (x, shared)):
            x = layer(x, shared)
    kept = [copy() for copy in copies]
    last = kept[-1].group
    assert all((copy.on_device is None) == (copy.group is not last) for copy in kept)
    storages = {t.untyped_storage()._cdata for t in (shared, *(m.weight for m in layers))}
    for copy, (values, stride) in zip(kept, seen, strict=True):
        back = offloading._restored(copy)
        assert torch.equal(back, values) and back.stride() == stride
        assert back.untyped_storage()._cdata not in storages
    assert {stride for _, stride in seen} >= {(8, 1), (16, 1)}
    x.sum().backward()
    del kept, last, copy, back, x
    gc.collect()
    assert not any(copy() for copy in copies)


def test_evaluation_keeps_nothing_and_copies_nothing(monkeypatch):
    model = model_of("llama")
    model.activation_offload_enable()
    monkeypatch.setattr(offloading, "_Group", None)  # would fail
    with torch.no_grad():
        model.eval()(torch.tensor([5, 6]), sequence_lengths=torch.tensor([2]))
        model.train()(torch.tensor([5, 6]), sequence_lengths=torch.tensor([2]))


def test_a_training_with_offload_is_the_same_training(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(offloading, "SMALLEST", 1)
    weights = []
    for offload in (False, True):
        model = model_of("llama", "causal_lm")
        rows = [{"input_ids": list(range(3, 3 + n))} for n in (5, 9, 14, 7)]
        settings = {"max_steps": 2, "global_batch_size": 4, "activation_offload": offload}
        settings |= {"precision": "bf16", "gradient_checkpointing": True, "eval_steps": 0}
        Trainer(model, CausalLM(), settings, train_dataset=rows).fit()
        weights.append(dict(model.state_dict()))
    for name, weight in weights[0].items():
        assert torch.equal(weights[1][name], weight), name
    assert caplog.text.count("a CPU's activations are in host memory anyway") == 1
    with pytest.raises(InputError, match="activation_offload: found true with trainer.compile=tr"):
        TrainSettings(activation_offload=True, compile=True)
    plain, settings = torch.nn.Linear(2, 2), TrainSettings(activation_offload=True)
    with pytest.raises(InputError, match="found true, and Linear has no known layers; accepted"):
        Trainer(
            plain,
            loss=lambda out, batch: (out.sum(), 1),
            settings=settings,
            train_dataset=[{"input": torch.ones(2)}],
        ).fit()
