"""The parts of a model under transformers' names: embeddings and output weights."""

from typing import Any

import pytest
import torch
from torch import nn

from trainer.errors import InputError
from trainer.models.auto import TASKS, AutoConfig

SIZES = {
    "bert": {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
    "t5": {"vocab_size": 20, "d_model": 8, "d_kv": 4, "num_layers": 1, "num_heads": 2, "d_ff": 8},
}


def small(family: str, task: str, **entries: Any) -> Any:
    torch.manual_seed(0)
    return TASKS[task].from_config(AutoConfig({"model_type": family, **SIZES[family], **entries}))


def test_the_output_layer_of_an_untied_encoder_decoder_has_its_own_weights() -> None:
    model = small("t5", "seq2seq_lm", tie_word_embeddings=False)
    layer = model.get_output_embeddings()
    assert layer.weight is model.head.weight is not model.get_input_embeddings().weight
    new = nn.Linear(8, 20, bias=False)
    model.set_output_embeddings(new)
    assert model.output_weight is new.weight is model.get_output_embeddings().weight
    tied = small("t5", "seq2seq_lm")
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    with pytest.raises(InputError, match="which this model ties them to"):
        tied.set_output_embeddings(new)


def test_refused_embeddings_change_nothing() -> None:
    model = small("bert", "sequence_classification", pad_token_id=19)
    old = model.get_input_embeddings()
    with pytest.raises(InputError, match="pad_token_id: found 19"):
        model.set_input_embeddings(nn.Embedding(10, 8))
    assert model.get_input_embeddings() is old and model.config.vocab_size == 20
