"""Variants of encoders that differ from the families' defaults, against transformers."""

import json

import pytest
import torch
import torch.nn.functional as F
import transformers

from tests.parity.test_models import (
    GRADIENTS,
    LOSS,
    MASKS,
    SIZES,
    assert_equal_where_seen,
    inputs_of,
    pairs_of_parameters,
)
from trainer.errors import InputError
from trainer.models.auto import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining
from trainer.models.family import find_family

ASKED = {"output_hidden_states": True, "output_attentions": True}


def reference(family, model=transformers.AutoModelForMaskedLM, **entries):
    """A small random transformers model in float64, far from its initial values."""
    names = find_family(family).synonyms
    sizes = {names.get(name, name): value for name, value in SIZES.items()}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**sizes, **entries})
    found = model.from_config(config, attn_implementation="eager").double().eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return found


def assert_equal(ours, theirs, mask):
    """Outputs, loss and gradients of a call with labels."""
    inputs = inputs_of(ours, mask)
    seen = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    labels = torch.randint(2, seen.shape, generator=torch.Generator().manual_seed(3))
    if ours.task == "masked_lm":
        labels = labels.masked_fill(seen == 0, -100)
    found, wanted = (m(**inputs, labels=labels, **ASKED) for m in (ours, theirs))
    loss = wanted.loss
    if loss.dtype != torch.float64:  # transformers computes this loss in float32
        loss = F.binary_cross_entropy_with_logits(
            wanted.logits[seen == 1], labels[seen == 1].double()
        )
        torch.testing.assert_close(wanted.loss, loss, check_dtype=False)
    torch.testing.assert_close(found.loss, loss, **LOSS)
    shown = seen if found.logits.dim() == 2 else seen[:, :, None]
    assert_equal_where_seen(found.logits, wanted.logits, shown)
    states = zip(found.hidden_states, wanted.hidden_states, strict=True)
    for state, other in states:
        assert_equal_where_seen(state, other, seen[:, :, None])
    for weights, other in zip(found.attentions, wanted.attentions, strict=True):
        assert_equal_where_seen(weights, other, seen[:, None, :, None])
    ours.zero_grad()
    theirs.zero_grad()
    found.loss.backward()
    loss.backward()
    for name, parameter, other in pairs_of_parameters(ours, theirs):
        torch.testing.assert_close(
            parameter.grad, other.grad, **GRADIENTS, msg=lambda text, name=name: f"{name}: {text}"
        )


V2 = {
    **{"relative_attention": True, "pos_att_type": "p2c|c2p", "type_vocab_size": 2},
    **{"position_buckets": 6, "max_relative_positions": 9},
}
VARIANTS = {
    "deberta-v2 with shared projections": {**V2, "share_att_key": True},
    "deberta-v2 xxlarge": {
        **V2,
        **{"conv_kernel_size": 3, "conv_act": "gelu", "conv_groups": 2, "share_att_key": True},
        **{"norm_rel_ebd": "layer_norm", "attention_head_size": 8},
    },
    "deberta-v2 without buckets": {**V2, "position_buckets": -1, "max_relative_positions": 5},
    "deberta-v2 of one kind": {**V2, "pos_att_type": ["c2p"]},
    "deberta-v2 of the other": {**V2, "pos_att_type": ["p2c"], "conv_kernel_size": 5},
    "deberta-v2 v3": {**V2, "position_biased_input": False, "max_position_embeddings": 8},
    "deberta-v2 absolute": {"type_vocab_size": 2},
    "albert in groups": {"num_hidden_layers": 5, "num_hidden_groups": 2, "inner_group_num": 2},
    "electra as wide as its embeddings": {"embedding_size": 32},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_equals(variant, tmp_path):
    theirs = reference(variant.split()[0], **VARIANTS[variant])
    theirs.save_pretrained(tmp_path)
    ours = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype="float64")
    for mask in MASKS.values():
        assert_equal(ours, theirs, mask)
    ours.save_pretrained(tmp_path / "ours")
    back = type(theirs).from_pretrained(tmp_path / "ours", dtype=torch.float64)
    states = back.state_dict(), theirs.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_electras_discriminator_equals(tmp_path):
    """Scores of every token, the loss without pads, and files in both directions."""
    theirs = reference("electra", transformers.AutoModelForPreTraining)
    theirs.save_pretrained(tmp_path)
    ours = AutoModelForPreTraining.from_pretrained(tmp_path, dtype="float64")
    assert ours.architecture == "ElectraForPreTraining"
    for mask in MASKS.values():
        assert_equal(ours, theirs, mask)
    inputs = inputs_of(ours, MASKS["right"])
    seen = inputs.pop("attention_mask").bool()
    flat = {name: tensor[seen] for name, tensor in inputs.items()}
    scores = ours(**flat, sequence_lengths=seen.sum(1)).logits
    torch.testing.assert_close(scores, ours(**inputs, attention_mask=seen).logits[seen])
    ours.save_pretrained(tmp_path / "ours")
    back = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "ours")
    assert back.state_dict().keys() == theirs.state_dict().keys()


def test_nomics_published_config_is_that_of_the_defaults(tmp_path, caplog):
    """It refers to remote code, which never runs; entries that change the model are refused."""
    published = {
        **{"model_type": "nomic_bert", "auto_map": {"AutoModel": "hf_nomic_bert.NomicBertModel"}},
        **{"n_embd": 768, "n_head": 12, "n_layer": 12, "n_inner": 3072, "n_positions": 8192},
        **{"activation_function": "swiglu", "rotary_emb_base": 1000, "vocab_size": 30528},
        **{"qkv_proj_bias": False, "prenorm": False, "type_vocab_size": 2},
    }
    (tmp_path / "config.json").write_text(json.dumps(published))
    config = AutoConfig.from_pretrained(tmp_path)
    assert [config.hidden_size, config.num_hidden_layers] == [768, 12]
    assert "auto_map" not in config.to_dict() and not caplog.messages
    for name, value in {"n_embd": 384, "prenorm": True, "rotary_emb_base": 10000}.items():
        with pytest.raises(InputError, match=rf"config.json: {name}: found {value}; accepted"):
            AutoConfig({**published, name: value})
    with pytest.raises(InputError, match="found auto_map, which points at remote code"):
        AutoConfig({**published, "model_type": "bert"})
