"""Models of transformers whose parts this package cannot name or use are refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from trainer.errors import InputError
from trainer.interop.padded_loading import _check_base, load_padded
from trainer.models.adapters.lora_settings import LoRASettings

SMALL = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LABELS = {"id2label": {0: "a", 1: "b"}}


def saved(kind: str, auto: Any, folder: Path, **sizes: Any) -> Path:
    config = transformers.AutoConfig.for_model(kind, **sizes)
    auto.from_config(config).save_pretrained(folder)
    return folder


def test_layers_that_are_not_known_need_named_targets(tmp_path: Path) -> None:
    sizes = {"vocab_size": 61, "emb_dim": 16, "n_layers": 1, "n_heads": 2, "n_langs": 1}
    auto = transformers.AutoModelForSequenceClassification
    model = load_padded(saved("xlm", auto, tmp_path, **sizes), "sequence_classification", LABELS)
    with pytest.raises(InputError, match=r"^model\.lora\.targets: the layers of XLM.*; accepted"):
        model.add_lora(LoRASettings(rank=2))
    model.add_lora(LoRASettings(rank=2, targets=["q_lin"]))


def test_the_routers_loss_of_transformers_is_refused(tmp_path: Path) -> None:
    sizes = {**SMALL, "intermediate_size": 16, "num_experts": 2, "num_experts_per_tok": 1}
    folder = saved("olmoe", transformers.AutoModelForCausalLM, tmp_path, **sizes, pad_token_id=0)
    load_padded(folder, "causal_lm", {})
    with pytest.raises(InputError, match="output_router_logits: found true; accepted with"):
        load_padded(folder, "causal_lm", {"output_router_logits": True})


def test_a_config_without_a_pad_id_loads(tmp_path: Path) -> None:
    sizes = {"vocab_size": 61, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 4}
    auto = transformers.AutoModelForCausalLM
    load_padded(saved("codegen", auto, tmp_path, **sizes, rotary_dim=4), "causal_lm", {})


def test_inputs_that_are_not_embeddings_are_refused(tmp_path: Path) -> None:
    auto = transformers.AutoModelForSequenceClassification
    folder = saved("ibert", auto, tmp_path, **SMALL, intermediate_size=16, pad_token_id=1)
    with pytest.raises(InputError, match=r"its inputs are read by \w+; accepted: token embedd"):
        load_padded(folder, "sequence_classification", LABELS)


def test_a_class_that_names_no_body_is_refused() -> None:
    class Own(transformers.OPTForCausalLM):
        base_model_prefix = ""

    sizes = {"ffn_dim": 16, "word_embed_proj_dim": 16, "max_position_embeddings": 32}
    inner = Own(transformers.OPTConfig(**SMALL, **sizes))
    with pytest.raises(InputError, match="Own names no base model; accepted: a class with"):
        _check_base(Path("folder"), inner)
