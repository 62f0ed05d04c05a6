"""Masked language models with untied output weights, against transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from trainer.errors import InputError
from trainer.models.auto import AutoModelForMaskedLM

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 50,
    "max_position_embeddings": 40,
}
DISTILBERT = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24, "vocab_size": 50}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "albert": {**SIZES, "embedding_size": 12},
    "bert": SIZES,
    "deberta-v2": SIZES,
    "distilbert": DISTILBERT,
    "electra": {**SIZES, "embedding_size": 12},
    "modernbert": {**SIZES, **TOKENS, "cls_token_id": 1, "sep_token_id": 2},
    "roberta": {**SIZES, "pad_token_id": 1},
}


def made(family: str, folder: Path, tied: bool = False) -> Any:
    """A transformers model with weights that are all different, and its saved folder."""
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(family, **CONFIGS[family], tie_word_embeddings=tied)
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", CONFIGS)
def test_untied_output_weights_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    theirs = made(family, tmp_path / "theirs")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "theirs")
    ids = torch.randint(3, 50, (2, 6))
    found, expected = model(ids, labels=ids), theirs(ids, labels=ids)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-5)
    found.loss.backward()
    expected.loss.backward()
    for name in ("get_input_embeddings", "get_output_embeddings"):
        gradients = [getattr(each, name)().weight.grad for each in (model, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=2e-5)
    model.save_pretrained(tmp_path / "ours")
    back, info = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    unread = {"cls.predictions.bias", "lm_head.bias", "predictions.bias"}  # only in tied models
    assert set(info["missing_keys"]) <= unread
    torch.testing.assert_close(back.eval()(ids).logits, expected.logits, rtol=1e-4, atol=2e-5)
    written = set(load_file(tmp_path / "ours/model.safetensors"))
    assert written | unread >= set(load_file(tmp_path / "theirs/model.safetensors"))


@pytest.mark.parametrize("family", CONFIGS)
def test_a_tied_file_may_be_untied(family: str, tmp_path: Path) -> None:
    made(family, tmp_path, tied=True)
    tied = AutoModelForMaskedLM.from_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path, tie_word_embeddings=False)
    ids = torch.randint(3, 50, (2, 6))
    torch.testing.assert_close(model(ids).logits, tied(ids).logits)
    output = model.get_output_embeddings()
    assert output is model.head.decoder and output.weight is not model.get_input_embeddings().weight
    model.set_output_embeddings(torch.nn.Linear(output.in_features, 50))
    assert not torch.equal(model.get_output_embeddings().weight, output.weight)


def test_rows_of_an_output_bias_are_drawn_around_their_mean(tmp_path: Path) -> None:
    theirs = made("bert", tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    for each in (theirs, model):
        each.resize_token_embeddings(54)
    output, expected = model.get_output_embeddings(), theirs.get_output_embeddings()
    assert output.out_features == 54 and len(output.weight) == len(output.bias) == 54
    torch.testing.assert_close(output.bias, expected.bias, rtol=0, atol=1e-4)
    torch.testing.assert_close(output.weight, expected.weight, rtol=0, atol=2e-4)
    model.save_pretrained(tmp_path / "grown")
    back = AutoModelForMaskedLM.from_pretrained(tmp_path / "grown")
    assert all(map(torch.equal, back.parameters(), model.parameters()))
    with pytest.raises(InputError, match="found tf for a masked language model with tie_word"):
        model.save_pretrained(tmp_path / "tf", format="tf")
    model.resize_token_embeddings(58, mean_resizing=False)
    assert not output.bias[54:].any()
