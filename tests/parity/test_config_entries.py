"""Every entry of config.json is read as in transformers, refused, or has no effect."""

import json

import pytest
import torch
import transformers

from tests.parity.closeness import assert_equal_in_fp32
from trainer.errors import InputError
from trainer.models.auto import AutoModel
from trainer.models.config import ModelConfig
from trainer.models.family import find_family, native_families
from trainer.models.formats.config_entries import NO_EFFECT

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "pad_token_id": 1,
    "bos_token_id": None,
    "eos_token_id": None,
}
OTHER = {
    **{"vocab_size": 70, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 20, "max_position_embeddings": 30, "num_key_value_heads": 1},
    **{"head_dim": 6, "type_vocab_size": 3, "pad_token_id": 5, "n_inner": 20},
    **{"hidden_act": "relu", "layer_norm_eps": 0.1, "layer_norm_epsilon": 0.1, "norm_eps": 0.1},
    **{"rms_norm_eps": 0.1, "sliding_window": 3, "max_window_layers": 1, "local_attention": 4},
    **{"problem_type": "regression", "classifier_pooling": "mean", "classifier_activation": "relu"},
    **{"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True},
    **{"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    **{"embedding_size": 24, "num_hidden_groups": 2, "inner_group_num": 2},
    **{"relative_attention_num_buckets": 16, "max_relative_positions": 5},
    **{"pooler_hidden_size": 8, "pooler_hidden_act": "relu"},
    **{"query_pre_attn_scalar": 9, "original_max_position_embeddings": 8},
    **{"no_rope_layers": [0, 1], "no_rope_layer_interval": 2, "_sliding_window_pattern": 3},
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 3},
    **{"moe_intermediate_size": 20, "mlp_only_layers": [0], "decoder_sparse_step": 2},
    **{"summary_type": "last", "quantization_config": {"quant_method": "fp8"}},
    **{"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}},
    **{"architectures": ["Other"], "dtype": "float32", "transformers_version": "4.0"},
}
"""For an entry a value that is not its default, by the shared blocks' names."""
OLD = {
    **{"attention_bias": True, "mlp_bias": True, "use_sliding_window": True, "sliding_window": 3},
    **{"layer_types": ["sliding_attention", "full_attention"], "tie_word_embeddings": True},
    **{"scale_attn_by_inverse_layer_idx": True, "head_dim": 6, "rms_norm_eps": 0.1},
    **{"normed_heads": True, "attention_output_bias": True, "max_window_layers": 1},
    **{"type_vocab_size": 4, "attention_output_dropout": 0.9, "layer_norm_eps": 0.1},
    **{"original_max_position_embeddings": 8, "rope_scaling": {"type": "linear", "factor": 4.0}},
    **{"rope_theta": 50.0, "norm_eps": 0.1, "layer_norm_epsilon": 0.1, "n_inner": 20, "n_embd": 8},
    **{"dim": 8, "hidden_dim": 20, "activation": "relu", "activation_function": "relu"},
    **{"hidden_activation": "relu", "local_attention": 4, "global_attn_every_n_layers": 1},
    **{"partial_rotary_factor": 0.5, "classifier_pooling": "mean", "decoder_bias": False},
    **{"sinusoidal_pos_embds": True, "norm_bias": True, "n_positions": 9, "n_layer": 1},
    **{"position_embedding_type": "relative_key", "scale_attn_weights": False},
    **{"prefix": "Once", "my_own_entry": 3, "logit_scale": 0.5, "attn_logit_softcapping": 5.0},
}
"""Entries of other families, of our own blocks, and unknown ones."""
IDS = torch.randint(6, 60, (2, 9), generator=torch.Generator().manual_seed(0))
FAMILIES = [name for name in native_families() if "base" in find_family(name).heads]
"""Encoder-decoders are in test_encoder_decoders.py."""
VARIANTS = ("camembert", "electra", "xlm-roberta", "mistral", "qwen3")
VARIANTS += ("gemma", "gemma2", "olmo2", "glm4")
"""Families that read their entries as RoBERTa, BERT, Llama, Qwen2 and Gemma 3 do."""
FIXED = {"_name_or_path", "model_type", "rope_parameters", "rope_scaling", "rope_theta"}
"""Not walked here: where a file comes from, and rotary kinds, which test_decoders compares."""


def written(folder, family, **entries):
    """Save a random model of transformers to a folder."""
    names = find_family(family).synonyms
    sizes = {names.get(name, name): value for name, value in SIZES.items()}
    if "num_key_value_heads" not in find_family(family).defaults:
        del sizes["num_key_value_heads"]
    config = transformers.AutoConfig.for_model(family, **{**sizes, **entries})
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model


def assert_equal_outputs(theirs, folder):
    theirs.config.use_cache = False  # a cache would obey any layer_types
    with torch.no_grad():
        assert_equal_in_fp32(AutoModel.from_pretrained(folder)(IDS)[0], theirs(IDS)[0])


def edit(folder, **entries):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_entry_that_the_family_does_not_have_changes_nothing_and_is_named(
    family, tmp_path, caplog
):
    written(tmp_path, family)
    known = ModelConfig({"model_type": family})._known | set(find_family(family).synonyms)
    strays = {name: value for name, value in OLD.items() if name not in known}
    edit(tmp_path, **strays)
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert_equal_outputs(theirs, tmp_path)
    assert "my_own_entry" in strays and len(strays) > 15
    for name in strays:
        silent = name in NO_EFFECT or name in find_family(family).no_effect
        assert silent or name in caplog.text, name


WALKED = [
    pytest.param(family, marks=pytest.mark.slow if family in VARIANTS else ())
    for family in FAMILIES
]


@pytest.mark.parametrize("family", WALKED)
def test_every_entry_of_the_family_is_obeyed_or_refused_by_name(family, tmp_path):
    known = find_family(family)
    entries = transformers.AutoConfig.for_model(family).to_dict()
    shared = {name: ours for ours, name in known.synonyms.items()}
    walked = 0
    for name, default in entries.items():
        if name in FIXED or name in NO_EFFECT:
            continue
        value = OTHER.get(name, OTHER.get(shared.get(name, name)))
        if value is None and isinstance(default, bool):
            value = not default
        elif value is None and isinstance(default, float):
            value = 0.3
        if value is None:
            assert default is None or name.endswith("_token_id") or name == "_name_or_path", name
            continue
        if compared(tmp_path / name, family, name, value):
            walked += 1
    assert walked > 10


def compared(folder, family, name, value):
    """Whether models with this entry were compared; if not, an error must name the entry."""
    try:
        theirs = written(folder, family, **{name: value})
        wanted = theirs(IDS)[0]
    except Exception:  # transformers refuses it too, or accepts it only in a file
        written(folder, family)
        edit(folder, **{name: value})
        theirs = None
    try:
        found = AutoModel.from_pretrained(folder)(IDS)[0]
    except InputError as error:
        assert name in str(error) or "tensor" in str(error) or "hidden size" in str(error), error
        return True
    if theirs is None:
        return False
    assert_equal_in_fp32(found, wanted, name=name)
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_no_token_is_written_minus_one_in_old_files(family, tmp_path):
    theirs = written(tmp_path, family)
    after_pad = find_family(family).positions_after_pad
    edit(tmp_path, bos_token_id=-1, eos_token_id=-1, **({} if after_pad else {"pad_token_id": -1}))
    assert_equal_outputs(theirs, tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    assert model.config.bos_token_id is None and model.config.eos_token_id is None


def test_overrides_mend_what_is_wrong_in_the_file(tmp_path):
    theirs = written(tmp_path, "bert")
    edit(
        tmp_path,
        hidden_act="gleu",
        pad_token_id=999,
        id2label={"0": "a", "2": "b"},
        is_decoder=True,
        quantization_config={"quant_method": "none"},
    )
    with pytest.raises(InputError, match=r"config.json: id2label: accepted: one name"):
        AutoModel.from_pretrained(tmp_path)
    mended = {
        **{"hidden_act": "gelu", "pad_token_id": 0, "id2label": ["a", "b"]},
        **{"is_decoder": False, "quantization_config": None},
    }
    found = AutoModel.from_pretrained(tmp_path, **mended)
    assert_equal_in_fp32(found(IDS)[0], theirs(IDS)[0])
    del mended["quantization_config"]
    with pytest.raises(InputError, match=r"config.json: quantization_config: found 'none'"):
        AutoModel.from_pretrained(tmp_path, **mended)
