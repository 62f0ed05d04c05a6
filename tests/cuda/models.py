"""Small models of every family and head on a pretended device, and batches for them."""

from typing import Any

import numpy as np
import pytest
import torch

from recipes.sequence_classification import SequenceClassification
from trainer.data.batch import FlatBatch
from trainer.data.tokens import TokenTable
from trainer.models import auto
from trainer.models.config import ModelConfig
from trainer.models.family import find_family, native_families
from trainer.models.heads.causal_lm import CausalLMOutput
from trainer.models.pretrained import PretrainedModel
from trainer.tasks.losses import next_token_loss

ENCODERS, DECODERS = (
    tuple(name for name in native_families() if find_family(name).kind == kind)
    for kind in ("encoder", "decoder")
)
FAMILIES = (*ENCODERS, *DECODERS)
FIRST = ("bert", "distilbert", "roberta", "modernbert", "gpt2", "llama", "qwen3", "gemma2")
"""Families whose blocks the others share. The default tests cover these, the slow tests every
family."""
EVERY_FAMILY = [
    pytest.param(name, marks=() if name in FIRST else pytest.mark.slow) for name in FAMILIES
]
EXPERTS = ("mixtral", "qwen3_moe")
"""Families whose experts run as one kernel in bf16; in other types they wait for the device."""
BIASED = ("mpnet", "deberta-v2")
"""Encoders with a bias on their scores, which are computed in blocks without torch's kernels."""
HEADS = {
    "base": auto.AutoModel,
    "sequence_classification": auto.AutoModelForSequenceClassification,
    "token_classification": auto.AutoModelForTokenClassification,
    "question_answering": auto.AutoModelForQuestionAnswering,
    "masked_lm": auto.AutoModelForMaskedLM,
    "multiple_choice": auto.AutoModelForMultipleChoice,
    "causal_lm": auto.AutoModelForCausalLM,
}
SIZES = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "max_position_embeddings": 512,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
}
"""Config entries by the shared blocks' names; a family gets those that it has."""
ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attn_pdrop")
"""The families' names for the dropout of attention probabilities, if not 0 by default."""


def _own_names(family: str, entries: dict[str, Any]) -> dict[str, Any]:
    """The entries that a family has, under its own names."""
    known = find_family(family)
    named = {known.synonyms.get(name, name): value for name, value in entries.items()}
    return {name: value for name, value in named.items() if name in known.defaults}


WITHOUT_ATTENTION_DROPOUT: dict[str, dict[str, float]] = {
    family: _own_names(family, dict.fromkeys(ATTENTION_DROPOUTS, 0.0)) for family in FAMILIES
}


def config_of(family: str, **entries: Any) -> ModelConfig:
    """The config of a tiny model of one layer."""
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "vocab_size": 97}
    sizes = _own_names(family, SIZES)
    return ModelConfig({"model_type": family, **ids, "num_labels": 2, **sizes, **entries})


def model_of(family: str, head: str = "base", **entries: Any) -> PretrainedModel:
    """A model of one layer, in training mode, on the meta device, for `Device.place`."""
    return HEADS[head]._on_meta(config_of(family, **entries)).train()


def batch_of(lengths: list[int], vocab_size: int = 97) -> FlatBatch:
    """A flat batch of sequences of these lengths on the CPU, with the dropout keys of a step."""
    rng = np.random.default_rng(0)
    table = TokenTable(
        input_ids=rng.integers(5, vocab_size, sum(lengths)).astype(np.int32),
        token_type_ids=None,
        sequence_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        sample_offsets=np.arange(len(lengths) + 1),
        fields={"labels": rng.integers(0, 2, len(lengths))},
        axes=SequenceClassification.fields,
    )
    return table.collate(np.arange(len(lengths))).for_step(1, 2)


def half(precision: str) -> torch.dtype:
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def head_of(family: str) -> str:
    """The head with which these tests train a family."""
    return "causal_lm" if family in DECODERS else "sequence_classification"


def loss_of(outputs: Any, batch: FlatBatch) -> torch.Tensor:
    """The loss sum that a recipe would compute from a model's outputs, for any head."""
    if isinstance(outputs, CausalLMOutput):
        return next_token_loss(outputs.projection, batch.input_ids.long()).sum
    return torch.stack([x.float().sum() for x in outputs.values()]).sum()
