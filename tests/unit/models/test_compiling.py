"""Compiled models: one graph in training, whatever the lengths, with the numbers of eager ones."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import Tensor

from tests.cuda.models import HEADS, SIZES, batch_of
from trainer.models.config import ModelConfig
from trainer.models.pretrained import PretrainedModel


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def model_of(family: str, head: str = "base", **entries: object) -> PretrainedModel:
    depth = {"distilbert": "n_layers", "gpt2": "n_layer"}.get(family, "num_hidden_layers")
    conf = {"model_type": family.replace("xlm_roberta", "xlm-roberta"), "vocab_size": 97}
    conf |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, **SIZES[family], depth: 1}
    torch.manual_seed(0)
    return HEADS[head].from_config(ModelConfig({**conf, **entries})).train()


def counted(model: PretrainedModel) -> Callable[[], int]:
    """Compile the model by nothing; the number of graphs so far, none of which is broken."""

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
    ["llama", *(pytest.param(f, marks=pytest.mark.slow) for f in ("bert", "modernbert", "gpt2"))],
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
    step(model, [23])  # torch has a graph of its own for axes of 1
    assert graphs() <= 3


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
    from trainer.generation.decoding import generate_ids
    from trainer.generation.settings import GenerationSettings

    model = model_of("llama", "causal_lm").eval()
    settings = GenerationSettings(max_new_tokens=6, temperature=0.0)
    wanted = generate_ids(model, [[5, 9, 3], [4]], settings)
    graphs = counted(model)
    assert generate_ids(model, [[5, 9, 3], [4]], settings) == wanted
    assert graphs() == 0
