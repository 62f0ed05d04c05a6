"""Compiled models: one graph in training for all lengths, with the numbers of eager models."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager

from tests.cuda.models import DECODERS, HEADS, batch_of, config_of
from trainer.models.attention import biased_attention, grouped_attention, self_attention
from trainer.models.pretrained import PretrainedModel


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def model_of(family: str, head: str = "base", **entries: object) -> PretrainedModel:
    torch.manual_seed(0)
    return HEADS[head].from_config(config_of(family, **entries)).train()


def counted(model: PretrainedModel) -> Callable[[], int]:
    """Trace the model without generating code; counts graphs, and fails for graph breaks."""

    def graphs() -> int:
        counters = torch._dynamo.utils.counters
        assert not counters["graph_break"], counters["graph_break"]
        return counters["stats"]["unique_graphs"]

    model.compile(dynamic=True, backend=lambda graph, inputs: graph.forward)
    return graphs


def step(model: PretrainedModel, lengths: list[int]) -> Tensor:
    hidden = model(**batch_of(lengths).inputs())[0]  # states or logits
    if torch.is_grad_enabled():
        hidden.sum().backward()
    return hidden.detach()


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        *(
            pytest.param(f, marks=pytest.mark.slow)
            for f in ("bert", "modernbert", "gpt2", "gemma2")
        ),
    ],
)
def test_a_model_is_one_graph_whatever_the_lengths(family: str) -> None:
    model = model_of(family)
    graphs = counted(model)
    for number in range(8):
        lengths = np.random.default_rng(number).integers(1, 60, 5 + number % 3).tolist()
        step(model, lengths)
    assert graphs() == 1
    step(model, [9, 9, 9])
    assert graphs() == 1
    model.eval()
    with torch.no_grad():
        for lengths in ([7, 3], [20, 41, 5]):
            step(model, lengths)
    assert graphs() == 2
    model.train()
    step(model, [23])  # torch makes a separate graph for axes of length 1
    assert graphs() <= 3


DROPPING = {
    "modernbert": {"attention_dropout": 0.1},
    "gemma2": {"attention_dropout": 0.1},
    "deberta-v2": {},
}
"""Families with windows, with capped scores, and with a bias."""


@pytest.mark.slow
@pytest.mark.parametrize("family", DROPPING)
def test_without_a_kernel_one_graph_computes_attention_in_blocks(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU without our kernel: no scores of all tokens, and the numbers of eager models."""
    for module in (self_attention, grouped_attention, biased_attention):
        monkeypatch.setattr(module, "is_split_in_blocks", lambda layout, num_heads: True)
    head = "causal_lm" if family in DECODERS else "token_classification"
    model = model_of(family, head, **DROPPING[family]).double()
    operations: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return aot_eager(graph, inputs)

    found = []
    for compiled in (False, True):
        if compiled:
            model.compile(dynamic=True, backend=backend)
        model.zero_grad()
        hidden = step(model, [150, 4, 17])
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append({"hidden": hidden, **gradients})
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-15)
    step(model, [60, 3, 60])
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    assert any("attention_blocks" in name for name in operations)
    assert not any("softmax" in name for name in operations)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "checkpointing"), [("bert", False), ("llama", True)])
def test_a_compiled_model_gives_the_numbers_of_an_eager_one(
    family: str, checkpointing: bool
) -> None:
    model = model_of(family, "token_classification", num_labels=3)
    if checkpointing:
        model.gradient_checkpointing_enable()
    names = list(model.state_dict())
    found = []
    for compiled in (False, True):
        if compiled:
            model.compile(dynamic=True, backend="aot_eager")
        model.zero_grad()
        hidden = step(model, [11, 4, 17])
        trained = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        assert len(trained) > 10
        found.append((hidden, trained))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert list(model.state_dict()) == names


def test_generation_runs_uncompiled_and_says_the_same() -> None:
    from trainer.generation.settings import GenerationSettings
    from trainer.generation.token_ids import generate_ids

    model = model_of("llama", "causal_lm").eval()
    settings = GenerationSettings(max_new_tokens=6, temperature=0.0)
    wanted = generate_ids(model, [[5, 9, 3], [4]], settings)
    graphs = counted(model)
    assert generate_ids(model, [[5, 9, 3], [4]], settings) == wanted
    assert graphs() == 0
