"""Small random models of types that only transformers has."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from trainer.interop.padded_loading import load_padded
from trainer.interop.padded_model import PaddedModel

VOCABULARY = 30522
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "roformer": {"embedding_size": 16, "intermediate_size": 20},
    "convbert": {"embedding_size": 16, "intermediate_size": 20},
    "opt": {"ffn_dim": 20, "word_embed_proj_dim": 16},
    "phi": {"intermediate_size": 20},
    "gpt_neox": {"intermediate_size": 20, "hidden_dropout": 0.1, "attention_dropout": 0.1},
    "falcon": {"hidden_dropout": 0.1},
    "bloom": {"hidden_dropout": 0.1},
    "mamba": {"state_size": 4, "conv_kernel": 3},
}
"""model_type -> entries of its config besides `SIZES`."""
BART = {
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "d_model": 16,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20,
    "decoder_start_token_id": 101,
}  # fmt: skip
T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 20,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
WRITERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("pegasus", "m2m_100", "blenderbot", "blenderbot-small", "plbart"), BART),
    **dict.fromkeys(("longt5", "umt5"), T5),
    "bigbird_pegasus": {**BART, "attention_type": "original_full"},
    "mbart": BART, "marian": BART, "bart": BART, "t5": T5,
}  # fmt: skip
"""Encoder-decoders, the last four of which are native too."""
DECODERS = ("opt", "phi", "gpt_neox", "falcon", "bloom", "mamba")
"""mamba has states in place of keys and values."""
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "hidden_dropout")


def save_foreign(model_type: str, folder: Path, **entries: Any) -> Path:
    """Save a random model of this type: a decoder with its head, or an encoder without one."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        model_type, **{**SIZES, **OWN.get(model_type, {}), **WRITERS.get(model_type, {}), **entries}
    )
    kind = transformers.AutoModelForCausalLM if model_type in DECODERS else transformers.AutoModel
    kind = transformers.AutoModelForSeq2SeqLM if model_type in WRITERS else kind
    kind.from_config(config).save_pretrained(folder)
    return folder


def still(folder: Path, task: str, **overrides: Any) -> PaddedModel:
    """A model in fp64 without dropout."""
    torch.manual_seed(1)
    model = load_padded(folder, task, overrides)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in DROPOUTS:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model.double()


def params(names: Iterable[str], usual: Collection[str]) -> list[Any]:
    """The names as parameters; all but the usual ones are slow."""
    marks = {name: () if name in usual else pytest.mark.slow for name in names}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]
