"""Disentangled attention in blocks: equal to one grid, in little memory, with its dropout masks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.errors import InputError
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.attention import disentangled_bias
from trainer.models.attention.biased_attention import BiasedAttention
from trainer.models.attention.pairs import Pairs
from trainer.models.auto import AutoConfig, AutoModel
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.dropout_hash import step_key, token_keys
from trainer.models.packing import Layout
from trainer.models.sequence_lengths import SequenceLengths

SIZES = {
    **{"model_type": "deberta-v2", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 600},
    **{"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
    **{"max_relative_positions": 64, "position_biased_input": False, "initializer_range": 0.4},
}
LENGTHS = [300, 7, 150, 20, 131, 31]


def model_of(**entries: Any) -> Any:
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig({**SIZES, **entries})).double()


def inputs(lengths: list[int]) -> tuple[Tensor, dict[str, Any]]:
    ids = torch.randint(1, 50, (sum(lengths),), generator=torch.Generator().manual_seed(1))
    sample = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    token = torch.cat([torch.arange(length) for length in lengths])
    keys = token_keys(1, 2, sample, torch.zeros_like(sample), token)
    return ids, {"sequence_lengths": torch.tensor(lengths), "dropout_keys": keys}


@contextmanager
def in_one_grid(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without blocks, as if the caller requests the probabilities."""
    usual = BiasedAttention.attend

    def plain(self: Any, *call: Any) -> tuple[Tensor, None]:
        return usual(self, *call[:-1], True)[0], None

    with monkeypatch.context() as patch:
        patch.setattr(BiasedAttention, "attend", plain)
        yield


@pytest.mark.parametrize(
    ("kinds", "at_a_time"),
    [(["p2c", "c2p"], 1 << 24), (["p2c", "c2p"], 1), (["c2p"], 1), (["p2c"], 1)],
)
def test_blocks_equal_one_grid(
    kinds: list[str], at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and gradients, with dropout, for long texts and for few sequences at a time."""
    monkeypatch.setattr(disentangled_bias, "MOST_SCORES", at_a_time)
    model = model_of(pos_att_type=kinds).train()
    ids, call = inputs(LENGTHS)
    trained = [p for _, p in model.named_parameters()]
    weights = torch.randn(len(ids), 16, dtype=torch.float64)
    found = model(ids, **call).last_hidden_state
    gradients = torch.autograd.grad((found * weights).sum(), trained)
    with in_one_grid(monkeypatch):
        wanted = model(ids, **call).last_hidden_state
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    references = torch.autograd.grad((wanted * weights).sum(), trained)
    one, other = (torch.cat([g.flatten() for g in each]) for each in (gradients, references))
    assert (one - other).norm() <= 1e-12 * other.norm()
    names = [n for n, _ in model.named_parameters()]
    assert references[names.index("body.embeddings.relative.weight")].norm() > 1e-3


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation creates."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(each, Tensor):
                self.numbers = max(self.numbers, each.untyped_storage().nbytes() // 8)
        return found


def test_no_scores_of_all_pairs_of_a_batch_exist() -> None:
    """At most one sequence's [heads, L, W] besides blocks of queries, forward and backward."""
    heads, length, number = 2, 384, 16
    bias = disentangled_bias.DisentangledBias(
        *(torch.randn(heads, 32, 8, dtype=torch.float64, requires_grad=True) for _ in range(2)),
        disentangled_bias.Distances(16, 64),
    )
    layout = Layout(torch.full((number,), length), torch.device("cpu"))
    parts = [
        torch.randn(number * length, heads, 8, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    ]
    from trainer.models.attention.block_attention import block_attention

    with pytest.MonkeyPatch.context() as patch, Largest() as largest:
        patch.setattr(disentangled_bias, "MOST_SCORES", 1)
        block_attention(*parts, Pairs(layout, layout), scale=0.3, bias=bias).sum().backward()
    flat = number * length * heads * 8
    assert largest.numbers <= max(flat, heads * length * max(32, 128)), largest.numbers
    assert number * heads * length * length > 15 * largest.numbers


def test_masks_of_the_table_belong_to_the_step_alone() -> None:
    """A sample has the same output alone; other steps and adapters have other masks."""
    model = model_of(share_att_key=True, attention_probs_dropout_prob=0.0)
    model.add_lora(LoRASettings(rank=2, dropout=0.3), base="")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    attention = model.body.layers[0].attention
    attention.position_dropout.p = attention.query.lora_dropout.p = 0.3
    for dropout in (attention.position_dropout, attention.query.lora_dropout):
        dropout._dropped = round(0.3 * 65536)
    model.train()
    ids, call = inputs([9, 4, 6])
    lengths, keys = call["sequence_lengths"], call["dropout_keys"]

    def run(ids: Tensor, lengths: Tensor, keys: Tensor, step: int) -> Tensor:
        given = SequenceLengths(lengths, step_key(1, step))
        found: Tensor = model(ids, sequence_lengths=given, dropout_keys=keys).last_hidden_state
        return found

    together = run(ids, lengths, keys, 1)
    sizes = lengths.tolist()
    parts = zip(ids.split(sizes), lengths, keys.split(sizes), strict=True)
    alone = torch.cat([run(i, n[None], k, 1) for i, n, k in parts])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(run(ids, lengths, keys, 2), together)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"pos_att_type": "p2p"}, "pos_att_type: found 'p2p' with relative_attention true"),
        ({"embedding_size": 8}, "embedding_size: found 8; accepted: 16"),
        ({"attention_head_size": 4}, "attention_head_size: found 4; accepted: 8"),
        ({"position_buckets": 3}, "position_buckets: found 3 for distances up to 64"),
        ({"position_buckets": 128}, "position_buckets: found 128 for distances up to 64"),
        ({"conv_kernel_size": 2}, "conv_kernel_size: found 2; accepted: 0, or odd"),
        ({"conv_kernel_size": 3, "conv_act": "tan"}, "conv_act: found 'tan'"),
    ],
)
def test_what_contradicts_itself_is_refused(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_of(**entries)


def test_texts_longer_than_the_table_share_its_last_rows() -> None:
    """Without absolute positions any length works; with them, lengths up to their number."""
    ids, call = inputs([700])
    assert model_of().eval()(ids, **call).last_hidden_state.isfinite().all()
    with pytest.raises(InputError, match=r"found a sequence of 700 tokens; accepted: up to 600"):
        model_of(position_biased_input=True)(ids, **call)
