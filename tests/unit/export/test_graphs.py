"""Traced graphs give the model's outputs for sizes that they were not traced with."""

from typing import Any

import pytest
import torch

from trainer.errors import InputError, NumericsError
from trainer.export import graphs, programs
from trainer.export.differences import Worst, ragged_batches
from trainer.export.walks import compare
from trainer.models.auto import TASKS
from trainer.models.config import ModelConfig
from trainer.models.family import find_family
from trainer.models.pretrained import PretrainedModel

SIZES = {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 640}
OWN: dict[str, dict[str, Any]] = {
    "modernbert": {
        "local_attention": 6,
        "num_hidden_layers": 2,
        "pad_token_id": 0,
        **dict.fromkeys(("bos_token_id", "cls_token_id"), 1),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), 2),
    },
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "mistral": {"sliding_window": 4},
    "gemma2": {"sliding_window": 4, "num_hidden_layers": 2, "head_dim": 16},
}
FIRST = [("mistral", "causal_lm")]
OTHERS = [
    ("modernbert", "sentence_embedding"),
    ("bert", "sequence_classification"),
    ("roberta", "multiple_choice"),
]
OTHERS += [("deberta-v2", "sentence_embedding"), ("gemma2", "causal_lm")]


def random_model(family: str, task: str, **more: Any) -> PretrainedModel:
    """A small model whose weights are far from their initial values."""
    torch.manual_seed(0)
    names = find_family(family).synonyms
    sizes = {names.get(name, name): value for name, value in SIZES.items()}
    entries = {"model_type": family, **sizes, **OWN.get(family, {}), **more}
    if find_family(family).kind == "decoder":
        entries["num_key_value_heads"] = 2
    model = TASKS[task].from_config(ModelConfig(entries)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def marked() -> list[Any]:
    slow = [pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS]
    return [*FIRST, *slow]


@pytest.mark.parametrize(("family", "task"), marked())
def test_a_graph_serves_all_sizes(family: str, task: str) -> None:
    """A single token, ragged rows, 600 tokens; decoders continue texts with their cache.

    Compares the saved program, whose guards refuse sizes that the tracer has fixed.
    """
    model = random_model(family, task)
    graph = graphs.trace(model, False)
    module = graph.program.module(check_guards=not programs.is_cached(graph))

    def run(inputs: Any) -> dict[str, torch.Tensor]:
        return programs.named_outputs(module, inputs, graph)

    worst, _ = compare(run, model, False)
    assert worst.value < 1e-5
    namespaces = {getattr(node.target, "namespace", "aten") for node in graph.program.graph.nodes}
    assert namespaces <= {"aten", "higher_order"}, "operators that torch alone does not have"
    assert all(axes[0] == "batch" for axes in (*graph.inputs.values(), *graph.outputs.values()))


def test_models_without_a_graph_are_refused_before_tracing() -> None:
    with pytest.raises(InputError, match="mixtral with experts; accepted: safetensors, merged"):
        graphs.trace(random_model("mixtral", "causal_lm"), False)
    with pytest.raises(InputError, match="no graph of t5 with an encoder and a decoder"):
        graphs.trace(random_model("t5", "seq2seq_lm"), False)


def test_positions_that_depend_on_the_length_are_refused() -> None:
    scaled = {"rope_type": "dynamic", "factor": 2.0}
    model = random_model("llama", "causal_lm")
    config = ModelConfig({**model.config.to_dict(), "rope_scaling": scaled})
    with pytest.raises(InputError, match="depend on the length of the text"):
        graphs.trace(TASKS["causal_lm"].from_config(config).eval(), False)


def test_other_outputs_are_noticed() -> None:
    worst, wanted = Worst(), {"logits": torch.tensor([[1.0, 20.0]])}
    worst.compare({"logits": torch.tensor([[1.0, 20.001]])}, wanted)
    assert worst.value == pytest.approx(5e-5, rel=0.01)
    worst.compare({"logits": torch.tensor([[1.0]])}, wanted)
    assert worst.value == float("inf")
    worst = Worst()
    worst.compare({"logits": torch.tensor([[float("nan"), 20.0]])}, wanted)
    assert worst.value == float("inf")
    with pytest.raises(NumericsError, match="onnx: outputs differ by inf; accepted: 0.0001"):
        worst.require("fp32", "onnx: outputs")


def test_ragged_batches_have_rows_of_different_lengths() -> None:
    model = random_model("bert", "sequence_classification")
    shapes = [batch["attention_mask"].sum(1).tolist() for batch in ragged_batches(model, True)]
    assert shapes == [[1], [17, 12, 7, 2], [600, 400]]


@pytest.mark.parametrize(("family", "number"), [("bert", 2), ("roberta", 1), ("distilbert", 0)])
def test_token_types_of_batches_are_those_of_the_model(family: str, number: int) -> None:
    model = random_model(family, "sequence_classification", type_vocab_size=number)
    assert model.num_token_types == number
    if number:
        for batch in ragged_batches(model, True):
            assert "token_type_ids" in batch and model(**batch).logits.isfinite().all()
