"""Small models of every family and head on a pretended device, and batches for them."""

from typing import Any

import numpy as np
import torch

from recipes.sequence_classification import SequenceClassification
from trainer.data.batch import FlatBatch
from trainer.data.tokens import TokenTable
from trainer.losses import next_token_loss
from trainer.models import auto
from trainer.models.config import ModelConfig
from trainer.models.outputs import CausalLMOutput
from trainer.models.pretrained import PretrainedModel

ENCODERS = ("bert", "distilbert", "roberta", "xlm_roberta", "modernbert")
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
FAMILIES = (*ENCODERS, *DECODERS)
HEADS = {
    "base": auto.AutoModel,
    "sequence_classification": auto.AutoModelForSequenceClassification,
    "token_classification": auto.AutoModelForTokenClassification,
    "question_answering": auto.AutoModelForQuestionAnswering,
    "masked_lm": auto.AutoModelForMaskedLM,
    "multiple_choice": auto.AutoModelForMultipleChoice,
    "causal_lm": auto.AutoModelForCausalLM,
}
SIZES: dict[str, dict[str, int]] = {
    "bert": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96},
    "distilbert": {"dim": 64, "n_heads": 4, "hidden_dim": 96, "n_layers": 1},
    "gpt2": {"n_embd": 64, "n_head": 4, "n_layer": 1, "n_positions": 512},
}
SIZES["roberta"] = SIZES["xlm_roberta"] = SIZES["modernbert"] = SIZES["bert"]
SIZES["llama"] = {**SIZES["bert"], "num_key_value_heads": 2}
SIZES["mistral"] = SIZES["qwen2"] = SIZES["qwen3"] = SIZES["llama"]
WITHOUT_ATTENTION_DROPOUT: dict[str, dict[str, float]] = {
    **dict.fromkeys(("modernbert", "llama", "mistral", "qwen2", "qwen3"), {}),
    "distilbert": {"attention_dropout": 0.0},
    "gpt2": {"attn_pdrop": 0.0},
    "bert": {"attention_probs_dropout_prob": 0.0},
    "roberta": {"attention_probs_dropout_prob": 0.0},
    "xlm_roberta": {"attention_probs_dropout_prob": 0.0},
}


def config_of(family: str, **entries: Any) -> ModelConfig:
    """The config of a tiny model of one layer."""
    conf: dict[str, Any] = {"model_type": family.replace("xlm_roberta", "xlm-roberta")}
    if family not in ("distilbert", "gpt2"):
        conf |= {"num_hidden_layers": 1, "max_position_embeddings": 512}
    conf |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "vocab_size": 97}
    return ModelConfig({**conf, "num_labels": 2, **SIZES[family], **entries})


def model_of(family: str, head: str = "base", **entries: Any) -> PretrainedModel:
    """A model of one layer, in training mode, on the meta device: give it to `Device.place`."""
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
    """The head that a family is mostly trained with here."""
    return "causal_lm" if family in DECODERS else "sequence_classification"


def loss_of(outputs: Any, batch: FlatBatch) -> torch.Tensor:
    """The sum that a recipe's loss would give for a model's outputs, whatever its head."""
    if isinstance(outputs, CausalLMOutput):
        return next_token_loss(outputs.projection, batch.input_ids.long()).sum
    return torch.stack([x.float().sum() for x in outputs.values()]).sum()
